"""The transformer's clients, when the predictor is away or answers with an error."""

from __future__ import annotations

import asyncio
import socket
from contextlib import closing

import numpy as np
import pytest

from fasttrack.errors import ConflictError, InvalidRequestError, NotFoundError, UnavailableError
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
    with pytest.raises(UnavailableError, match=host):
        ask(protocol, host)


@pytest.mark.parametrize("protocol", ["v2", "grpc-v2"])
def test_a_silent_predictor_is_given_up_at_the_callers_deadline(protocol):
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        host = f"127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(UnavailableError):
            ask(protocol, host, timeout=3600, headers={"x-request-timeout-ms": "300"})


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidRequestError),
        (404, NotFoundError),
        (409, ConflictError),
        (500, UnavailableError),
        (503, UnavailableError),
    ],
)
def test_the_predictors_errors_keep_their_kind(status, kind):
    seen = []

    async def run():
        async def answer(reader, writer):
            seen.append(await reader.readuntil(b"\r\n\r\n"))
            body = b'{"error": "the reason"}'
            writer.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%s" % (status, len(body), body))
            await writer.drain()
            writer.close()

        enter(RequestContext("a" * 32, "b" * 16))
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        host = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        client = connect("v2", host, "m", 5.0)
        try:
            await client.infer(INPUTS, "1", {})
        finally:
            await client.close()
            server.close()

    with pytest.raises(kind, match="the reason"):
        asyncio.run(run())
    assert f"traceparent: 00-{'a' * 32}-{'b' * 16}-01".encode() in seen[0]


def test_a_broken_answer_is_the_predictors_fault():
    async def run():
        async def answer(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        client = connect("v2", f"127.0.0.1:{server.sockets[0].getsockname()[1]}", "m", 5.0)
        try:
            await client.infer(INPUTS, "1", {})
        finally:
            await client.close()
            server.close()

    with pytest.raises(UnavailableError, match="predictor failed"):
        asyncio.run(run())
