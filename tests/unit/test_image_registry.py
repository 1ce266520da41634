"""What a registry says of an image, before a pod has to find out: only a plain no stops anybody."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import pytest

from fasttrack.errors import NotFoundError
from fasttrack.kubeflow.checks.pulls import check_images
from fasttrack.kubeflow.checks.registry import held
from fasttrack.kubeflow.cluster.client import Cluster

DIGEST = "sha256:" + "a" * 64


class Registry(BaseHTTPRequestHandler):
    """Holds `team/fasttrack/drain:0.1.0`; `wants` says who may ask."""

    wants = ""
    status = 0

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        granted = {"": None, "token": "Bearer good", "password": "Basic " + base64.b64encode(b"me:secret").decode()}
        if self.wants and self.headers.get("Authorization") != granted[self.wants]:
            self.send_response(401)
            host = self.headers["Host"]
            bearer = f'Bearer realm="http://{host}/token",service="here",scope="repository:team/fasttrack:pull"'
            self.send_header("WWW-Authenticate", bearer if self.wants == "token" else 'Basic realm="here"')
            return self.end_headers()
        there = self.path in (
            "/v2/team/fasttrack/drain/manifests/0.1.0",
            f"/v2/team/fasttrack/drain/manifests/{DIGEST}",
        )
        assert "application/vnd.oci.image.index.v1+json" in self.headers["Accept"]
        self.send_response(self.status or (200 if there else 404))
        return self.end_headers()

    def do_GET(self) -> None:
        asked = parse_qs(urlsplit(self.path).query)
        body = json.dumps(
            {"token": "good"} if asked == {"service": ["here"], "scope": ["repository:team/fasttrack:pull"]} else {}
        )
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())


@contextmanager
def registry(**said: Any) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Of", (Registry,), said))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"localhost:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(autouse=True)
def _no_docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))


@pytest.mark.parametrize("wants", ["", "token"])
def test_a_registry_tells_what_it_has_and_what_it_lacks(wants: str) -> None:
    with registry(wants=wants) as host:
        there = [f"{host}/team/fasttrack/drain:0.1.0", f"{host}/team/fasttrack/drain@{DIGEST}"]
        lacking = [f"{host}/team/fasttrack/drain:0.2.0", f"{host}/team/fasttrack/drain", f"{host}/other:0.1.0"]
        assert held([*there, *lacking]) == dict.fromkeys(there, True) | dict.fromkeys(lacking, False)


def test_credentials_of_docker_are_shown_and_without_them_nothing_is_known(tmp_path: Path) -> None:
    with registry(wants="password") as host:
        image = f"{host}/team/fasttrack/drain:0.1.0"
        assert held([image]) == {}
        auth = base64.b64encode(b"me:secret").decode()
        (tmp_path / "config.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))
        assert held([image]) == {image: True}


@pytest.mark.parametrize("text", ["", "[]", "{", '{"auths": 5}', '{"auths": {"HOST": {"auth": "%%"}}}'])
def test_a_docker_configuration_that_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    with registry(wants="password") as host:
        (tmp_path / "config.json").write_text(text.replace("HOST", host))
        assert held([f"{host}/team/fasttrack/drain:0.1.0"]) == {}


@pytest.mark.parametrize("status", [301, 403, 429, 500])
def test_any_other_answer_says_nothing(status: int) -> None:
    with registry(status=status) as host:
        assert held([f"{host}/team/fasttrack/drain:0.1.0"]) == {}


def test_a_registry_that_is_away_says_nothing() -> None:
    with registry() as host:
        pass
    assert held([f"{host}/team/fasttrack/drain:0.1.0", "nowhere.invalid/fasttrack/drain:0.1.0"]) == {}


class Bare:
    """A cluster without nodes and pods."""

    def list(self, *_: Any) -> list[Any]:
        return []


def test_an_image_that_is_nowhere_stops_a_run_before_it_begins() -> None:
    with registry() as host:
        there, lacking = f"{host}/team/fasttrack/drain:0.1.0", f"{host}/team/fasttrack/drain:9"
        unknown = "nowhere.invalid/fasttrack/drain:0.1.0"
        found = list(check_images(cast(Cluster, Bare()), [there, lacking, unknown], "here"))
    states = {each.name: (each.state, each.error) for each in found if each.state != "note"}
    assert states == {f"image {lacking}": ("mend", NotFoundError), "images": ("ok", None)}
    assert [unknown in each.detail for each in found if each.state == "note"] == [True]
