"""Requests over kept connections: what is kept, what is tried, and what a broken answer is called."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import closing

import pytest

from fasttrack.errors import ConfigurationError
from fasttrack.http_link import AnswerError, BrokenLinkError, HttpLink, LinkError, Response

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-One: 1\r\n\r\nhi"


class Server:
    """Says the next of its answers to each request, whatever it is; ``None`` says nothing, ``b""`` hangs up."""

    def __init__(self, *answers: bytes | None, hang_up: bool = False) -> None:
        self.answers = list(answers)
        self.hang_up = hang_up
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head)
                length = [line[16:] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length: ")]
                self.bodies.append(await reader.readexactly(int(length[0]) if length else 0))
                answer = self.answers.pop(0)
                if answer is None:
                    continue
                for byte in (answer[i : i + 7] for i in range(0, len(answer), 7)):
                    writer.write(byte)
                    await asyncio.sleep(0)
                if not answer or self.hang_up:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()


def told(server: Server, story: Callable[[HttpLink], Awaitable[None]], prefix: str = "", **options: float) -> None:
    async def run() -> None:
        listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        limits = {"idle_seconds": 5.0, "connect_seconds": 1.0, **options}
        link = HttpLink(f"http://127.0.0.1:{port}{prefix}", **limits)  # type: ignore[arg-type]
        try:
            await story(link)
        finally:
            await link.close()
            listening.close()

    asyncio.run(run())


async def post(link: HttpLink, seconds: float = 5.0) -> Response:
    return await link.exchange("/x", b"body", {"A": "b"}, seconds)


def test_a_connection_is_kept_and_requests_are_whole() -> None:
    server = Server(GOOD, GOOD, GOOD)

    async def story(link: HttpLink) -> None:
        assert await post(link) == Response(200, {"content-length": "2", "x-one": "1"}, b"hi")
        await post(link)
        await link.exchange("/y", None, {}, 5.0)

    told(server, story, prefix="/at/")
    assert server.connections == 1
    assert server.bodies == [b"body", b"body", b""]
    assert server.heads[0].startswith(b"POST /at/x HTTP/1.1\r\nhost: 127.0.0.1:")
    assert b"\r\nA: b\r\n" in server.heads[0]
    assert server.heads[2].startswith(b"GET /at/y ")


def test_two_at_a_time_take_two_connections() -> None:
    server = Server(GOOD, GOOD)

    async def story(link: HttpLink) -> None:
        await asyncio.gather(post(link), post(link))

    told(server, story)
    assert server.connections == 2


def test_an_idle_connection_is_not_used_again() -> None:
    server = Server(GOOD, GOOD)

    async def story(link: HttpLink) -> None:
        await post(link)
        await asyncio.sleep(0.05)
        await post(link)

    told(server, story, idle_seconds=0.02)
    assert server.connections == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nh\r\n1\r\ni\r\n0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + GOOD,
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi",
    ],
)
def test_other_ways_to_send_an_answer(answer: bytes) -> None:
    async def story(link: HttpLink) -> None:
        for _ in range(2):
            assert (await post(link)).body == b"hi"

    server = Server(answer, answer)
    told(server, story)
    assert server.connections == (2 if b"close" in answer else 1)


def test_an_answer_without_length_ends_with_the_connection() -> None:
    async def story(link: HttpLink) -> None:
        assert await post(link) == Response(503, {}, b"no")

    told(Server(b"HTTP/1.1 503 X\r\n\r\nno", hang_up=True), story)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"", BrokenLinkError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi", AnswerError),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhi", AnswerError),
        (b"SSH-2.0-x\r\n\r\n", AnswerError),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000, AnswerError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n" + b"x" * 101, AnswerError),
    ],
)
def test_a_broken_answer_is_named_and_its_connection_dropped(answer: bytes, kind: type[LinkError]) -> None:
    async def story(link: HttpLink) -> None:
        with pytest.raises(kind) as caught:
            await post(link)
        assert type(caught.value) is kind
        assert (await post(link)).body == b"hi"

    server = Server(answer, GOOD, hang_up=True)
    told(server, story, max_answer_bytes=100)
    assert server.connections == 2


def test_a_late_answer_is_a_timeout_and_never_anothers() -> None:
    async def story(link: HttpLink) -> None:
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            await post(link, 0.1)
        assert time.monotonic() - started < 2
        waiting = asyncio.create_task(post(link))
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert (await post(link)).body == b"hi"

    server = Server(None, None, GOOD)
    told(server, story)
    assert server.connections == 3


def test_nobody_is_there() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]

    async def story() -> None:
        with pytest.raises(BrokenLinkError):
            await post(HttpLink(f"http://127.0.0.1:{port}", idle_seconds=5, connect_seconds=1))

    asyncio.run(story())


@pytest.mark.parametrize("base", ["", "127.0.0.1:1", "ftp://x", "http://", "http://a b", "http://x:port", "http://x\n"])
def test_urls_that_are_none(base: str) -> None:
    with pytest.raises(ConfigurationError):
        HttpLink(base, idle_seconds=1, connect_seconds=1)


@pytest.mark.parametrize(
    ("path", "headers"),
    [("/a b", {}), ("/\n", {}), ("/x", {"a": "b\r\nc: d"}), ("/x", {"a": "b\nc"}), ("/x", {"a": "\0"})],
)
def test_what_has_no_place_in_http_is_not_sent(path: str, headers: dict[str, str]) -> None:
    async def story(link: HttpLink) -> None:
        with pytest.raises(ValueError):
            await link.exchange(path, None, headers, 1.0)

    told(Server(), story)
