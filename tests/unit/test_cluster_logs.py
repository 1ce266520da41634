"""Pods' logs as a kubelet gives them, whole seconds and all: every line is told, once, and in order."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kubernetes.client import ApiClient, Configuration

from fasttrack.errors import StepError
from fasttrack.kubeflow.cluster.client import Cluster
from fasttrack.kubeflow.cluster.follow import LogTail
from fasttrack.kubeflow.launchers.place import Limits
from fasttrack.kubeflow.launchers.pursuit import Pursuit, Work
from fasttrack.kubeflow.launchers.train import judge

START = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
KINDS = {"/api/v1": ("pods", "Pod"), "/apis/trainer.kubeflow.org/v1alpha1": ("trainjobs", "TrainJob")}


def stamp(tenths: int) -> str:
    """So many tenths of a second after the start, as a kubelet writes it."""
    return datetime.fromtimestamp(START + tenths // 10, UTC).strftime(f"%Y-%m-%dT%H:%M:%S.{tenths % 10}00000000Z")


@dataclass
class ApiServer:
    """One namespace with pods that speak; its answers are an API server's."""

    logs: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    objects: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    asked: list[dict[str, str]] = field(default_factory=list)
    status: int = 200

    def answer(self, path: str, query: dict[str, str]) -> tuple[int, bytes]:
        if path in KINDS:
            plural, kind = KINDS[path]
            return 200, json.dumps({"resources": [{"name": plural, "namespaced": True, "kind": kind}]}).encode()
        if path.endswith("/log"):
            self.asked.append(query)
            return self._log(path.split("/")[-2], query)
        if query.get("watch"):
            return 200, b""
        items = self.objects.get(path.rpartition("/")[2], [])
        return 200, json.dumps({"metadata": {"resourceVersion": "1"}, "items": items}).encode()

    def _log(self, pod: str, query: dict[str, str]) -> tuple[int, bytes]:
        if self.status != 200:
            return self.status, json.dumps({"kind": "Status", "message": "no"}).encode()
        since = query.get("sinceTime", "")
        if since:
            # As metav1.Time is read: anything else is a bad request, and fractions of a second are dropped.
            try:
                since = datetime.strptime(since, "%Y-%m-%dT%H:%M:%SZ").strftime("%Y-%m-%dT%H:%M:%S")
            except ValueError:
                return 400, json.dumps({"kind": "Status", "message": f"sinceTime {since}"}).encode()
        found = [f"{at} {text}\n" for at, text in self.logs.get(pod, []) if at >= since]
        return 200, "".join(found[-int(query["tailLines"]) :]).encode()


@contextmanager
def serving(server: ApiServer) -> Iterator[Cluster]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            address = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(address.query).items()}
            status, body = server.answer(address.path.rstrip("/"), query)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.02,))
    thread.start()
    try:
        configuration = Configuration(host=f"http://127.0.0.1:{http.server_port}")
        configuration.retries = False
        yield Cluster(ApiClient(configuration), patience=5.0)
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


# Progress bars return the carriage, and Unicode has more ends of lines than a log has.
TEXTS = st.text(st.characters(blacklist_characters="\n", blacklist_categories=("Cs",)), max_size=20)
POLLS = st.lists(st.lists(st.tuples(st.integers(1, 12), TEXTS), max_size=6), min_size=1, max_size=6)


@given(polls=POLLS)
@settings(max_examples=40)
def test_every_line_is_told_once_and_in_order(polls: list[list[tuple[int, str]]]) -> None:
    server, at = ApiServer({"p": []}), 0
    with serving(server) as cluster:
        tail = LogTail(cluster, "n")
        told: list[str] = []
        for batch in polls:
            for later, text in batch:
                at += later
                server.logs["p"].append((stamp(at), text))
            told += tail.poll("p", "node")
            assert told == [text for _, text in server.logs["p"]]
            assert tail.poll("p", "node") == []
    assert list(tail.lines) == told
    assert {query["container"] for query in server.asked} == {"node"}


def test_of_a_pod_that_says_much_the_last_lines_are_kept() -> None:
    server = ApiServer({"p": [(stamp(number), str(number)) for number in range(1000)]})
    with serving(server) as cluster:
        tail = LogTail(cluster, "n")
        assert tail.poll("p") == [str(number) for number in range(800, 1000)]
        server.logs["p"].append((stamp(1000), "1000"))
        assert tail.poll("p") == ["1000"]
    assert list(tail.lines) == [str(number) for number in range(801, 1001)]


def test_two_pods_do_not_hide_each_others_lines() -> None:
    server = ApiServer({pod: [(stamp(1), "the same")] for pod in ("a", "b")})
    with serving(server) as cluster:
        tail = LogTail(cluster, "n")
        assert tail.poll("a") == tail.poll("b") == ["the same"]
        assert tail.poll("a") == tail.poll("b") == []


@pytest.mark.parametrize("status", [400, 403, 404, 500])
def test_a_log_that_cannot_be_had_is_left_alone_for_a_while(status: int) -> None:
    server = ApiServer({"p": [(stamp(1), "hello")], "q": [(stamp(1), "hello")]}, status=status)
    with serving(server) as cluster:
        tail = LogTail(cluster, "n")
        assert tail.poll("p") == []
        server.status = 200
        assert tail.poll("p") == []
        assert tail.poll("q") == ["hello"]
    assert len(server.asked) == 2


def pod(name: str, index: str, phase: str = "Running") -> dict[str, Any]:
    labels = {"batch.kubernetes.io/job-completion-index": index}
    metadata = {"name": name, "uid": name, "resourceVersion": "1", "labels": labels}
    return {"metadata": metadata, "status": {"phase": phase}}


@pytest.mark.parametrize("ended", ["Complete", "Failed"])
def test_what_a_pod_says_to_the_end_is_heard_of_the_speaker_only(ended: str) -> None:
    conditions = [{"type": ended, "status": "True", "message": "over"}]
    metadata = {"name": "fit", "namespace": "n", "uid": "fit", "resourceVersion": "1"}
    job = {"metadata": metadata, "status": {"conditions": conditions}}
    pods = [
        pod("fit-node-0-0-x", "0"),
        pod("fit-node-0-1-x", "1"),
        pod("other-node-0-0-x", "0"),
        pod("fit-z", "0", "Pending"),
    ]
    server = ApiServer(objects={"trainjobs": [job], "pods": pods})
    server.logs = {each["metadata"]["name"]: [(stamp(1), f"of {each['metadata']['name']}")] for each in pods}
    heard: list[str] = []
    work = Work(
        # The pods are known before the object's end is: the test is about the last words.
        judge=lambda obj: judge(obj) if len(pursuit._pods) == 3 else judge({}),
        pods="it=fit",
        speaker=lambda each: each["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"] == "0",
        container="node",
        seconds=60,
        on_line=heard.append,
    )
    made = {"apiVersion": "trainer.kubeflow.org/v1alpha1", "kind": "TrainJob", "metadata": metadata}
    with serving(server) as cluster:
        pursuit = Pursuit(cluster, Limits(), made, work)
        if ended == "Complete":
            pursuit.run()
        else:
            with pytest.raises(StepError, match=r"over \(of fit-node-0-0-x\)"):
                pursuit.run()
    assert heard == ["of fit-node-0-0-x"]
    assert pursuit.account()["log"] == heard
