"""The gateway's client: problems and silence become the errors that they stand for."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from fasttrack.client import Gateway
from fasttrack.errors import (
    AuthenticationError,
    ConfigurationError,
    DeadlineError,
    FastTrackError,
    NotFoundError,
    RateLimitError,
    UnavailableError,
)
from tests.loopback import free_port

BODY = {"entity": {"id": "1"}}


@contextmanager
def one_answer(status: int, body: bytes) -> Iterator[str]:
    """The URL of a server that gives one answer."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, AuthenticationError),
        (404, NotFoundError),
        (429, RateLimitError),
        (502, UnavailableError),
        (503, UnavailableError),
        (504, DeadlineError),
        (500, FastTrackError),
    ],
)
def test_a_problem_becomes_the_error_of_its_status(status: int, kind: type[FastTrackError]) -> None:
    with one_answer(status, json.dumps({"detail": "the reason"}).encode()) as url:
        with pytest.raises(kind, match="the reason") as caught:
            Gateway(url, "token").predict("orders", BODY)
        assert type(caught.value) is kind


def test_what_is_no_problem_document_still_says_its_status() -> None:
    with one_answer(503, b"<html>") as url, pytest.raises(UnavailableError, match="HTTP 503"):
        Gateway(url, "token").predict("orders", BODY)


def test_a_gateway_that_is_away_and_one_that_never_answers() -> None:
    with pytest.raises(UnavailableError, match="fasttrack status") as caught:
        Gateway(f"http://127.0.0.1:{free_port()}", "token").predict("orders", BODY)
    assert type(caught.value) is UnavailableError
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(DeadlineError, match="timed out"):
        Gateway(f"http://127.0.0.1:{silent.getsockname()[1]}", "token", timeout=0.2).predict("orders", BODY)


def test_a_url_of_another_kind_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="FASTTRACK_GATEWAY"):
        Gateway("file:///etc/passwd", "token").predict("orders", BODY)


def test_the_curl_line_is_quoted() -> None:
    line = Gateway("http://127.0.0.1:1", "secret").curl("orders", {"entity": {"id": "it's"}}, token="$TOKEN")
    assert "secret" not in line
    assert line.startswith("curl -sS http://127.0.0.1:1/v1/usecases/orders/predict -H 'Authorization: Bearer $TOKEN'")
