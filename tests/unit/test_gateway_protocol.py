"""Slow, huge and malformed clients on real sockets."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.gateway_harness import ModelServer, Running, deployment, gateway, model_server, read_all, until


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, server: ModelServer) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("gateway")
    limits: dict[str, Any] = {
        "header_seconds": 0.4,
        "body_seconds": 0.6,
        "keep_alive_seconds": 1.0,
        "max_header_bytes": 4096,
    }
    with gateway(folder, lambda: [deployment(server.url, server.url)], max_headers=20, **limits) as it:
        yield it


def drip(running: Running, start: bytes, drop: bytes) -> bytes:
    """Send `start`, then `drop` again and again until the server hangs up; what it said."""
    with socket.create_connection(("127.0.0.1", running.port), timeout=20) as connection:
        connection.sendall(start)
        end = time.monotonic() + 15
        try:
            while time.monotonic() < end:
                time.sleep(0.05)
                connection.sendall(drop)
        except OSError:
            pass
        else:
            pytest.fail("the server let the client go on")
        try:
            return read_all(connection)
        except ConnectionResetError:
            return b""


HEAD = b"POST /v1/usecases/flights/predict HTTP/1.1\r\nHost: x\r\n"


def test_a_silent_connection_is_closed(running: Running) -> None:
    assert running.raw(b"") == b""


def test_slow_headers_are_cut_off_however_they_drip(running: Running) -> None:
    for start, drop in ((b"", b"G"), (b"GET / HTTP/1.1\r\n", b"X-A: b\r\n"), (b"GET / HTTP/1.1\r\nX-A: ", b"b")):
        drip(running, start, drop)


def test_incomplete_headers_are_answered_with_408(running: Running) -> None:
    answer = running.raw(HEAD)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"application/problem+json" in answer


def test_a_slow_body_is_answered_with_408(running: Running, server: ModelServer) -> None:
    before = len(server.requests)
    token = running.issuer.token("flights-predictor").encode()
    head = (
        HEAD + b"Authorization: Bearer " + token + b"\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
    )
    assert running.raw(head + b"{").startswith(b"HTTP/1.1 408 ")
    drip(running, head, b" ")
    assert len(server.requests) == before


def test_blank_lines_do_not_keep_a_connection(running: Running) -> None:
    request = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
    with socket.create_connection(("127.0.0.1", running.port), timeout=20) as connection:
        connection.sendall(request)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        connection.sendall(b"\r\n")
        assert read_all(connection) == b""
    drip(running, request, b"\r\n")


def test_a_fast_client_does_not_notice_the_slow_ones(running: Running) -> None:
    slow = [socket.create_connection(("127.0.0.1", running.port)) for _ in range(200)]
    try:
        for connection in slow:
            connection.sendall(HEAD)
        assert running.predict().status == 200
        until(lambda: not running.app.edge.in_flight)
    finally:
        for connection in slow:
            connection.close()


def test_connections_are_kept_alive_and_pipelined_requests_answered_in_order(running: Running) -> None:
    one = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answer = running.raw(one + one + last)
    assert [line[9:12] for line in answer.split(b"HTTP/1.1 ")[1:]] != []
    assert answer.count(b"HTTP/1.1 200 ") == 2
    assert answer.rindex(b"HTTP/1.1 404 ") > answer.rindex(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /livez HTTP/1.1\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nHost: a\r\nAuthorization: a\r\nAuthorization: b\r\n\r\n", 400),
        (b"GARBAGE\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nHost: a\r\nX : b\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nHost: a\r\nX\x00: b\r\n\r\n", 400),
        (b"POST /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
        (b"POST /livez HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 6000 + b"\r\n\r\n", 431),
        (b"GET /livez HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 6000, 431),
        (b"GET /" + b"y" * 6000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 431),
        (b"GET /livez HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 30 + b"\r\n", 431),
    ],
)
def test_malformed_requests(running: Running, request_: bytes, status: int) -> None:
    answer = running.raw(request_)
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer[:200]
    assert b"application/problem+json" in answer
    # Whatever came behind it must not be taken for a second request.
    assert answer.count(b"HTTP/1.1 ") == 1


def test_more_than_can_be_handled_is_shed(tmp_path_factory: pytest.TempPathFactory) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with (
        model_server(delay=0.5) as slow,
        gateway(
            tmp_path_factory.mktemp("gateway"), lambda: [deployment(slow.url, slow.url)], max_in_flight=2
        ) as running,
        ThreadPoolExecutor(8) as pool,
    ):
        answers = list(pool.map(lambda _: running.predict(), range(8)))
        statuses = [answer.status for answer in answers]
        assert set(statuses) == {200, 503}
        shed = next(answer for answer in answers if answer.status == 503)
        assert int(shed.headers["retry-after"]) >= 1


def test_requests_under_way_end_before_the_gateway_does(tmp_path_factory: pytest.TempPathFactory) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with model_server(delay=1.0) as slow, ThreadPoolExecutor(3) as pool:
        with gateway(tmp_path_factory.mktemp("gateway"), lambda: [deployment(slow.url, slow.url)]) as running:
            waiting = [pool.submit(running.predict) for _ in range(3)]
            until(lambda: len(slow.requests) == 3)
        assert [answer.result().status for answer in waiting] == [200] * 3
        # Their rows were written before the gateway ended, too.
        assert len(running.sink.audit()) == 3


def test_a_gateway_that_is_leaving_answers_and_sends_its_clients_elsewhere(tmp_path: Path, server: ModelServer) -> None:
    with gateway(tmp_path, lambda: [deployment(server.url, server.url)]) as running:
        assert running.ask("GET", "/v2/health/ready").status == 200
        running.app.parts.leaving = True
        for path in ("/readyz", "/v2/health/ready"):
            assert running.ask("GET", path).status == 503
        answer = running.predict()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
