"""A closed loop of HTTP/1.1 requests on kept connections: each sends its next one when its answer is there.

    python -m tests.bench.closed_loop < JOB

Reads a `Job` as JSON, prints a `Result` as JSON. Ends with an error at the first answer that isn't the one to expect.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any, cast

import orjson
import uvloop

_KEPT = 20


@dataclass
class Job:
    """What to send.

    Attributes:
        port: on the loopback.
        head: request line and headers, without ``Content-Length`` and the empty line.
        bodies: Latin-1 texts; sent in turn, again and again if `repeat`, otherwise until the last.
        connections: at a time.
        seconds: after which no further request is sent.
        marker: a text that each answer's body must have.
        repeat: whether bodies may be sent again.
    """

    port: int
    head: str
    bodies: list[str]
    connections: int
    seconds: float
    marker: str
    repeat: bool


@dataclass
class Result:
    """What came.

    Attributes:
        requests: answered.
        p50, p99: milliseconds.
        rate: requests a second.
        first: bodies of the first answers, by the index of their request.
    """

    requests: int
    p50: float
    p99: float
    rate: float
    first: dict[str, str] = field(default_factory=dict)


class _Connection(asyncio.Protocol):
    """One of the connections."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._sent = 0.0
        self._index = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def send(self) -> None:
        """The next request; none if it is over."""
        found = next(self._loop.requests, None)
        if found is None or time.perf_counter() >= self._loop.end or self._transport is None:
            self.done.set_result(None)
            return
        self._index, content = found
        self._sent = time.perf_counter()
        self._transport.write(content)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        lines = self._buffer[:head].lower()
        at = lines.index(b"\r\ncontent-length:") + 17
        length = int(lines[at : lines.find(b"\r\n", at) if lines.find(b"\r\n", at) > 0 else head])
        if len(self._buffer) < head + 4 + length:
            return
        body, self._buffer = self._buffer[head + 4 : head + 4 + length], self._buffer[head + 4 + length :]
        if not lines.startswith(b"http/1.1 200") or self._loop.marker not in body:
            self.done.set_exception(RuntimeError(f"{lines[:40]!r}: {body[:400]!r}"))
            return
        self._loop.took.append(time.perf_counter() - self._sent)
        if len(self._loop.first) < _KEPT:
            self._loop.first[str(self._index)] = body.decode("latin-1")
        self.send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("the server hung up"))


class Loop:
    """One run of a job."""

    def __init__(self, job: Job) -> None:
        self._job = job
        head = job.head.encode()
        every = []
        for index, text in enumerate(job.bodies):
            body = text.encode("latin-1")
            every.append((index, b"%b\r\ncontent-length: %d\r\n\r\n%b" % (head, len(body), body)))
        self.requests: Iterator[tuple[int, bytes]] = cycle(every) if job.repeat else iter(every)
        self.marker = job.marker.encode()
        self.took: list[float] = []
        self.first: dict[str, str] = {}
        self.end = 0.0

    async def run(self) -> Result:
        """Send until the seconds are over or the requests have ended.

        Raises:
            RuntimeError: an answer is not 200 or lacks the marker.
            OSError: the server can't be reached or hangs up.
        """
        loop = asyncio.get_running_loop()
        made: list[Any] = [
            await loop.create_connection(lambda: _Connection(self), "127.0.0.1", self._job.port)
            for _ in range(self._job.connections)
        ]
        began = time.perf_counter()
        self.end = began + self._job.seconds
        for _, connection in made:
            connection.send()
        await asyncio.gather(*(connection.done for _, connection in made))
        seconds = time.perf_counter() - began
        for transport, _ in made:
            transport.abort()
        took = sorted(self.took)
        p50, p99 = (round(took[int(len(took) * share)] * 1000, 3) for share in (0.5, 0.99))
        return Result(len(took), p50, p99, round(len(took) / seconds, 1), self.first)


if __name__ == "__main__":
    job = Job(**orjson.loads(sys.stdin.buffer.read()))
    gc.disable()
    sys.stdout.buffer.write(orjson.dumps(uvloop.run(Loop(job).run())))
