"""The transformer's clients, when the predictor is away or answers with an error."""

from __future__ import annotations

import asyncio
import socket
from contextlib import closing

import numpy as np
import pytest

from fasttrack.errors import ConflictError, DeadlineError, InvalidRequestError, NotFoundError, UnavailableError
from fasttrack.serving.tensors import Tensor
from fasttrack.serving.trace import RequestContext, enter
from fasttrack.serving.upstream import connect

INPUTS = {"x": Tensor("x", "FP32", np.zeros((1, 2), np.float32))}


def ask(protocol, host, timeout=5.0, headers=None):
    async def run():
        enter(RequestContext.read(headers or {}))
        client = connect(protocol, host, "m", timeout)
        try:
            return await client.infer(INPUTS, "1", {})
        finally:
            await client.close()

    return asyncio.run(run())


@pytest.mark.parametrize("protocol", ["v2", "grpc-v2"])
def test_a_predictor_that_is_away_is_unavailable_and_named(protocol):
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        host = f"127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(UnavailableError, match=host) as caught:
        ask(protocol, host)
    assert caught.value.status == 503


@pytest.mark.parametrize("protocol", ["v2", "grpc-v2"])
def test_a_silent_predictor_is_given_up_at_the_callers_deadline(protocol):
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        host = f"127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(DeadlineError, match=f"{host}.*in time"):
            ask(protocol, host, timeout=3600, headers={"x-request-deadline-ms": "300"})
        with pytest.raises(DeadlineError, match=host):
            ask(protocol, host, timeout=0.3)


def ask_one_that_says(answer, context, seen=None):
    """Ask a server that always sends `answer`; `seen` gets the headers that it was sent."""
    seen = [] if seen is None else seen

    async def run():
        async def say(reader, writer):
            seen.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(answer)
            await writer.drain()
            writer.close()

        enter(context)
        server = await asyncio.start_server(say, "127.0.0.1", 0)
        client = connect("v2", f"127.0.0.1:{server.sockets[0].getsockname()[1]}", "m", 5.0)
        try:
            await client.infer(INPUTS, "1", {})
        finally:
            await client.close()
            server.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("status", "kind", "said"),
    [
        (400, InvalidRequestError, "the reason"),
        (404, NotFoundError, "the reason"),
        (409, ConflictError, "the reason"),
        (500, UnavailableError, "the reason"),
        (503, UnavailableError, "the reason"),
        (504, DeadlineError, "in time"),
    ],
)
def test_the_predictors_errors_keep_their_kind(status, kind, said):
    body = b'{"error": "the reason"}'
    answer = b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%s" % (status, len(body), body)
    with pytest.raises(kind, match=said) as caught:
        ask_one_that_says(answer, RequestContext.read({}))
    assert type(caught.value) is kind


def test_a_trace_travels_on():
    sent = []
    with pytest.raises(UnavailableError):
        ask_one_that_says(b"HTTP/1.1 503 X\r\n\r\n", RequestContext("a" * 32, "b" * 16), sent)
    assert f"traceparent: 00-{'a' * 32}-{'b' * 16}-01".encode() in sent[0]


def test_a_broken_answer_is_the_predictors_fault():
    with pytest.raises(UnavailableError, match="predictor failed"):
        ask_one_that_says(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", RequestContext.read({}))
