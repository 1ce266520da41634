"""The webhook route over HTTP, without Kafka: who is let in, what is refused, what is told, counted and recorded."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api_gateway.signatures import TOLERANCE_SECONDS
from fasttrack.usecase import dump
from tests.unit.gateway_harness import NOWHERE, Answer, Running, deployment, gateway, until
from tests.unit.ingest_usecase import YAML, event
from tests.unit.webhook_sender import OTHER, SECRET, headers

HOOK = "/v1/usecases/shop/webhooks/hook"
SOURCES: dict[str, dict[str, Any]] = {
    "hook": {"kind": "webhook", "stream": "placed", "secret_env": "TEST_HOOK_SECRET", "max_bytes": 2000},
    "mute": {"kind": "webhook", "stream": "placed", "secret_env": "TEST_NO_SECRET"},
    "weak": {"kind": "webhook", "stream": "placed", "secret_env": "TEST_WEAK_SECRET"},
    "files": {"kind": "files", "stream": "placed", "path": "in", "format": "csv"},
}
LIMIT = "serving: {rate_limit: {requests: 1000000, burst: 100000}}\n"


def declare(folder: Path, name: str = "shop", more: str = LIMIT, **sources: dict[str, Any]) -> Path:
    text = YAML.format(name=name, partitions=3, source="tests.unit.ingest_usecase:events")
    file = folder / f"{name}.yaml"
    file.write_text(text + more + "sources: " + json.dumps(sources or SOURCES) + "\n")
    return file


@pytest.fixture(scope="module", autouse=True)
def _secrets() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEST_HOOK_SECRET", SECRET)
        patch.setenv("TEST_WEAK_SECRET", "whsec_c2hvcnQ=")
        yield


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("gateway")
    declare(folder)
    with gateway(folder, list, kafka=NOWHERE, usecases=str(folder), webhook_seconds=0.3) as it:
        yield it


def post(running: Running, body: Any, path: str = HOOK, id: str = "msg_1", **changes: str) -> Answer:
    """A good delivery with some headers changed (an empty one is left out)."""
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = headers(id, text) | {name.replace("_", "-"): value for name, value in changes.items()}
    return running.ask("POST", path, text, headers={k: v for k, v in sent.items() if v})


def counted(running: Running, outcome: str, source: str = "hook", usecase: str = "shop") -> float:
    text = running.ask("GET", "/metrics").body.decode()
    name = f'fasttrack_gateway_webhooks_total{{outcome="{outcome}",source="{source}",usecase="{usecase}"}} '
    return sum(float(line.removeprefix(name)) for line in text.splitlines() if line.startswith(name))


def test_without_kafka_nothing_is_claimed(running: Running) -> None:
    before = counted(running, "unavailable")
    answer = post(running, event())
    assert (answer.status, answer.headers["retry-after"]) == (503, "5")
    assert answer.headers["content-type"] == "application/problem+json"
    assert "127.0.0.1" not in answer.body.decode() and "afka" not in answer.body.decode()
    assert counted(running, "unavailable") == before + 1


def test_the_call_is_recorded(running: Running) -> None:
    trace = post(running, event()).headers["x-trace-id"]
    until(lambda: any(row.trace_id == trace for row in running.sink.audit()))
    (row,) = (row for row in running.sink.audit() if row.trace_id == trace)
    assert (row.subject, row.usecase, row.status) == ("webhook:hook", "shop", 503)
    assert row.route == "POST /v1/usecases/{name}/webhooks/{source}"
    assert row.request_hash is not None and len(row.request_hash) == 64


@pytest.mark.parametrize(
    "path",
    [HOOK.replace("shop", "nowhere"),
     "/v1/usecases/shop/webhooks/nothing", "/v1/usecases/shop/webhooks/files", "/v1/usecases/shop/webhooks/mute",
     "/v1/usecases/shop/webhooks/weak"],
)  # fmt: skip
def test_what_is_not_there_or_has_no_secret_looks_like_a_wrong_signature(running: Running, path: str) -> None:
    wrong = running.ask("POST", HOOK, b"{}", headers=headers("msg_1", b"{}", OTHER))
    answer = running.ask("POST", path, b"{}", headers=headers("msg_1", b"{}", SECRET))
    assert wrong.status == answer.status == 401
    told, expected = answer.json(), wrong.json()
    for each in (told, expected):
        del each["trace_id"], each["instance"]
    assert told == expected
    assert answer.headers.keys() == wrong.headers.keys()
    assert answer.headers["www-authenticate"].startswith("Webhook-Signature")


def test_who_was_refused_is_counted_and_not_recorded(running: Running) -> None:
    before, nameless = counted(running, "refused"), counted(running, "refused", "", "")
    answer = running.ask("POST", HOOK, b"{}", headers=headers("msg_1", b"{}", OTHER))
    running.ask("POST", HOOK.replace("shop", "nowhere"), b"{}", headers=headers("msg_1", b"{}"))
    assert counted(running, "refused") == before + 1
    assert counted(running, "refused", "", "") == nameless + 1
    until(lambda: not running.app.parts.audit.waiting)
    assert answer.headers["x-trace-id"] not in {row.trace_id for row in running.sink.audit()}


@pytest.mark.parametrize("name", ["webhook_id", "webhook_timestamp", "webhook_signature"])
def test_a_header_that_is_missing_or_changed_is_refused(running: Running, name: str) -> None:
    assert post(running, event(), **{name: ""}).status == 401
    good = headers("msg_1", json.dumps(event()).encode())[name.replace("_", "-")]
    other = {"webhook_id": "msg_2", "webhook_timestamp": str(int(good) - 1) if good.isdigit() else ""}
    assert post(running, event(), **{name: other.get(name) or good.replace("v1,", "v1,A")}).status == 401


def test_a_replay_is_refused(running: Running) -> None:
    body = json.dumps(event()).encode()
    late = headers("msg_1", body, at=time.time() - TOLERANCE_SECONDS - 2)
    answer = running.ask("POST", HOOK, body, headers=late)
    assert answer.status == 401 and "five minutes" in answer.json()["detail"]


def test_a_header_that_comes_twice_is_refused(running: Running) -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers("msg_1", b"{}").items())
    head = (
        f"POST {HOOK} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nConnection: close\r\n{lines}webhook-id: msg_2\r\n\r\n"
    )
    assert running.raw(head.encode() + b"{}").startswith(b"HTTP/1.1 400 ")


def test_a_body_beyond_the_limit_is_refused_before_it_is_read(running: Running) -> None:
    assert post(running, b'"' + b"x" * 1998 + b'"').status == 400
    assert post(running, b'"' + b"x" * 1999 + b'"').status == 413
    # Said to be too long: answered at once.
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers("msg_1", b"").items())
    with socket.create_connection(("127.0.0.1", running.port), timeout=20) as connection:
        connection.sendall(f"POST {HOOK} HTTP/1.1\r\nHost: x\r\nContent-Length: 2001\r\n{lines}\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")
    # Chunked, it says nothing: counted as it comes.
    chunk = b"300\r\n" + b"x" * 0x300 + b"\r\n"
    head = f"POST {HOOK} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n{lines}\r\n"
    assert running.raw(head.encode() + chunk * 3 + b"0\r\n\r\n").startswith(b"HTTP/1.1 413 ")
    assert running.app.parts.webhooks.under_way == 0


@pytest.mark.parametrize(
    ("body", "changes", "status"),
    [(b"{", {}, 400), (b"17", {}, 400), (b"{}", {"Content_Type": "text/plain"}, 415),
     (b"{}", {"Content_Encoding": "gzip"}, 415), (b"{}", {"Content_Type": "application/cloudevents+json"}, 503)],
)  # fmt: skip
def test_what_is_not_json_is_refused(running: Running, body: bytes, changes: dict[str, str], status: int) -> None:
    assert post(running, body, **changes).status == status


def test_only_post_is_served(running: Running) -> None:
    answer = running.ask("GET", HOOK)
    assert answer.status == 405


def test_the_limit_is_the_use_cases_and_each_webhook_has_its_own(tmp_path: Path) -> None:
    both = {"hook": SOURCES["hook"], "second": SOURCES["hook"]}
    file = declare(tmp_path, more="serving: {rate_limit: {requests: 1, per: 1h, burst: 2}}\n", **both)
    with gateway(tmp_path, list, kafka=NOWHERE, usecases=str(file), webhook_seconds=0.05) as it:
        assert [post(it, event(), id=f"m{n}").status for n in range(3)] == [503, 503, 429]
        assert post(it, event(), HOOK.replace("webhooks/hook", "webhooks/second")).status == 503
        # Those who can't sign take nothing away from it.
        assert it.ask("POST", HOOK, b"{}", headers=headers("m", b"{}", OTHER)).status == 401
        assert counted(it, "limited") == 1


def test_bodies_are_bounded_together(tmp_path: Path) -> None:
    declare(tmp_path)
    limits = {"webhook_seconds": 5.0, "webhook_held_bytes": 1500, "webhook_in_flight": 2}
    with gateway(tmp_path, list, kafka=NOWHERE, usecases=str(tmp_path), **limits) as it:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers("msg_1", b"").items())
        head = f"POST {HOOK} HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n{lines}\r\n".encode()
        with socket.create_connection(("127.0.0.1", it.port)) as first:
            first.sendall(head + b"x" * 1000)
            until(lambda: it.app.parts.webhooks.held == 1000)
            assert post(it, b'"' + b"x" * 600 + b'"').status == 503
            with socket.create_connection(("127.0.0.1", it.port)) as second:
                second.sendall(head)
                until(lambda: it.app.parts.webhooks.under_way == 2)
                assert post(it, b"{}").status == 503
                # The other routes don't feel it.
                assert it.ask("GET", "/livez").status == 200
        until(lambda: (it.app.parts.webhooks.held, it.app.parts.webhooks.under_way) == (0, 0))
        assert counted(it, "disconnected") == 2


def test_a_deployed_use_cases_webhooks_are_served_too(tmp_path: Path) -> None:
    from fasttrack.usecase import load

    wanted = deployment("http://127.0.0.1:1", "http://127.0.0.1:1", name="shop")
    document = dump(load(declare(tmp_path)))
    wanted.usecase_document.clear()
    wanted.usecase_document.update(document)
    wanted.signature.update({"features": [], "entity": {"name": "order", "keys": ["order_id"]}})
    with gateway(tmp_path, lambda: [wanted], kafka=NOWHERE, webhook_seconds=0.05) as it:
        assert post(it, event()).status == 503
        assert post(it, b"{").status == 400


def test_a_changed_file_is_read_again_and_a_broken_one_keeps_what_it_held(tmp_path: Path) -> None:
    file = declare(tmp_path, hook=SOURCES["mute"])
    good = declare(tmp_path, "shop2", hook=SOURCES["hook"])
    with gateway(tmp_path, list, kafka=NOWHERE, usecases=str(tmp_path), webhook_seconds=0.05) as it:
        second = HOOK.replace("shop", "shop2")
        assert (post(it, event()).status, post(it, event(), second).status) == (401, 503)
        good.write_text("name: [")
        declare(tmp_path, hook=SOURCES["hook"])
        until(lambda: post(it, event()).status == 503)
        assert post(it, event(), second).status == 503
        good.unlink()
        until(lambda: post(it, event(), second).status == 401)
    assert file.exists()


def test_a_gateway_without_kafka_starts_and_does_not_load_its_client() -> None:
    code = "import api_gateway.app, sys; sys.exit('confluent_kafka' in sys.modules or 'pyarrow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_openapi_document_tells_how_to_send(running: Running) -> None:
    document = running.ask("GET", "/openapi.json").json()
    operation = document["paths"]["/v1/usecases/{name}/webhooks/{source}"]["post"]
    assert {each["name"] for each in operation["parameters"]} >= {"name", "source", "webhook-id", "webhook-timestamp"}
    assert "WebhookReceipt" in str(operation["responses"]["202"])
    assert {"400", "401", "413", "415", "429", "503"} <= operation["responses"].keys()
    assert document["components"]["securitySchemes"]["signature"]["name"] == "webhook-signature"
