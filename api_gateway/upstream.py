"""Calls to the model servers: kept-alive connections, deadlines that travel along, one retry, a breaker each."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import aiohttp

from api_gateway.breaker import CircuitBreaker, RetryBudget
from api_gateway.observability import Metrics, Trace
from api_gateway.options import GatewayOptions
from fasttrack.errors import DeadlineError, UnavailableError

Part = Literal["transformer", "explainer"]
#: Milliseconds that are left of the request's time; a server that can't make it may stop early.
DEADLINE_HEADER: Final = "x-request-deadline-ms"
_RETRIED: Final = (aiohttp.ClientConnectorError, aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)
_CHUNK: Final = 262_144
#: A server that got less than this share of the usual time, as its caller is in a hurry, is not to blame if it is late.
_FAIR_SHARE: Final = 0.25


@dataclass(frozen=True, slots=True)
class Answer:
    """A model server's answer; `headers` by lower-case name."""

    status: int
    headers: dict[str, str]
    body: bytes


def overdue(part: str) -> DeadlineError:
    """The error for a model server that did not answer by the deadline."""
    return DeadlineError(f"the {part} did not answer in time.", fix="Try again, or allow more time.")


class Upstreams:
    """The client of all model servers; one breaker and one retry budget for each base URL."""

    def __init__(self, options: GatewayOptions, metrics: Metrics) -> None:
        self._options = options
        self._metrics = metrics
        self._session: aiohttp.ClientSession | None = None
        self._guards: dict[str, tuple[CircuitBreaker, RetryBudget]] = {}

    async def open(self) -> None:
        """Make the client session; needs a running loop."""
        connector = aiohttp.TCPConnector(limit=self._options.max_in_flight * 2, keepalive_timeout=4.0)
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept-Encoding", "Accept"),
        )

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def call(
        self,
        part: Part,
        base: str,
        path: str,
        *,
        deadline: float,
        usual: float,
        trace: Trace,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """POST `body` (GET without one) to ``base + path``.

        Args:
            deadline: on the monotonic clock; the remaining milliseconds travel in `DEADLINE_HEADER`.
            usual: seconds that the use case gives a request.

        Raises:
            UnavailableError: the server is not there, hung up, or its breaker is open.
            DeadlineError: it did not answer by the deadline.
        """
        breaker, budget = self._guard(base)
        if (wait := breaker.wait()) > 0:
            self._metrics.upstream.labels(part, "refused").inc()
            raise UnavailableError(f"the {part} is not available.", fix=f"Try again in {math.ceil(wait)} s.")
        budget.earn()
        started = time.monotonic()
        fair = deadline - started >= usual * _FAIR_SHARE
        settled = False
        try:
            answer = await self._tried(base + path, body, headers or {}, deadline, trace, budget)
            settled = True
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            late = isinstance(error, TimeoutError) and time.monotonic() >= deadline - 0.01
            settled = fair or not late
            if settled:
                breaker.failed()
            self._metrics.upstream.labels(part, "late" if late else "unreachable").inc()
            if late:
                raise overdue(part) from error
            raise UnavailableError(f"the {part} does not answer.", fix="Try again in a few seconds.") from error
        finally:
            self._metrics.upstream_seconds.labels(part).observe(time.monotonic() - started)
            if not settled:
                breaker.abandoned()
        if answer.status == 504 and not fair:
            breaker.abandoned()
        elif answer.status >= 500:
            breaker.failed()
        else:
            breaker.succeeded()
        self._metrics.upstream.labels(part, f"{answer.status // 100}xx").inc()
        return answer

    def _guard(self, base: str) -> tuple[CircuitBreaker, RetryBudget]:
        guard = self._guards.get(base)
        if guard is None:
            guard = CircuitBreaker(self._options.breaker_failures, self._options.breaker_seconds), RetryBudget()
            self._guards[base] = guard
        return guard

    async def _tried(
        self,
        url: str,
        body: bytes | None,
        headers: Mapping[str, str],
        deadline: float,
        trace: Trace,
        budget: RetryBudget,
    ) -> Answer:
        try:
            return await self._once(url, body, headers, deadline, trace)
        except _RETRIED:
            # Inference changes nothing on the server, so asking twice is safe, also after a broken connection.
            if not budget.spend():
                raise
            return await self._once(url, body, headers, deadline, trace)

    async def _once(
        self, url: str, body: bytes | None, headers: Mapping[str, str], deadline: float, trace: Trace
    ) -> Answer:
        assert self._session is not None, "open() comes first"
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        sent = {**headers, "traceparent": trace.traceparent, DEADLINE_HEADER: str(max(1, int(left * 1000)))}
        timeout = aiohttp.ClientTimeout(total=left, sock_connect=min(left, self._options.connect_seconds))
        method = "GET" if body is None else "POST"
        async with self._session.request(
            method, url, data=body, headers=sent, timeout=timeout, allow_redirects=False
        ) as answer:
            content = await self._content(answer)
            return Answer(answer.status, {name.lower(): value for name, value in answer.headers.items()}, content)

    async def _content(self, answer: aiohttp.ClientResponse) -> bytes:
        limit = self._options.max_answer_bytes
        if answer.content_length is not None and answer.content_length <= limit:
            return await answer.read()
        pieces: list[bytes] = []
        size = 0
        async for piece in answer.content.iter_chunked(_CHUNK):
            size += len(piece)
            if size > limit:
                raise aiohttp.ClientPayloadError("the answer is too large")
            pieces.append(piece)
        return b"".join(pieces)


async def cancelled(task: asyncio.Task[object]) -> None:
    """Cancel a task whose result nobody wants any more, and wait until it has gone."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
