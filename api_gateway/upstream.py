"""Calls to the model servers: kept-alive connections, deadlines that travel along, one retry, a breaker each."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping
from typing import Final, Literal

from api_gateway.breaker import CircuitBreaker, RetryBudget
from api_gateway.observability import Metrics, Trace, log
from api_gateway.options import GatewayOptions
from fasttrack.errors import ConfigurationError, DeadlineError, UnavailableError
from fasttrack.http_link import BrokenLinkError, HttpLink, LinkError, Response, TlsError
from fasttrack.tls import ClientTls

Part = Literal["transformer", "explainer"]
Answer = Response
#: Milliseconds that are left of the request's time; a server that can't make it may stop early.
DEADLINE_HEADER: Final = "x-request-deadline-ms"
#: Less than uvicorn's 5 s, so that no request meets a connection that is being closed.
_IDLE_SECONDS: Final = 4.0
#: A server that got less than this share of the usual time, as its caller is in a hurry, is not to blame if it is late.
_FAIR_SHARE: Final = 0.25


def overdue(part: str) -> DeadlineError:
    """The error for a model server that did not answer by the deadline."""
    return DeadlineError(f"the {part} did not answer in time.", fix="Try again, or allow more time.")


class Upstreams:
    """The client of all model servers; one breaker and one retry budget for each base URL.

    Args:
        options, metrics: of the gateway.
        tls: whom to trust as a model server and who we are to it; default: as of `HttpLink`.
    """

    def __init__(self, options: GatewayOptions, metrics: Metrics, tls: ClientTls | None = None) -> None:
        self._options = options
        self._metrics = metrics
        self._tls = tls
        self._links: dict[str, HttpLink] = {}
        self._guards: dict[str, tuple[CircuitBreaker, RetryBudget]] = {}

    async def close(self) -> None:
        """Close the connections."""
        for link in self._links.values():
            await link.close()

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
            answer = await self._tried(base, path, body, headers or {}, deadline, trace, budget)
            settled = True
        except OSError as error:
            late = isinstance(error, TimeoutError) and time.monotonic() >= deadline - 0.01
            settled = fair or not late
            if settled:
                breaker.failed()
            self._metrics.upstream.labels(part, "late" if late else "unreachable").inc()
            if late:
                raise overdue(part) from error
            raise _away(part, error) from error
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
        base: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
        deadline: float,
        trace: Trace,
        budget: RetryBudget,
    ) -> Answer:
        try:
            return await self._once(base, path, body, headers, deadline, trace)
        except BrokenLinkError:
            # Inference changes nothing on the server, so asking twice is safe, also after a broken connection.
            if not budget.spend():
                raise
            return await self._once(base, path, body, headers, deadline, trace)

    async def _once(
        self, base: str, path: str, body: bytes | None, headers: Mapping[str, str], deadline: float, trace: Trace
    ) -> Answer:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        sent = {**headers, "traceparent": trace.traceparent, DEADLINE_HEADER: str(max(1, int(left * 1000)))}
        return await self._link(base).exchange(path, body, sent, left)

    def _link(self, base: str) -> HttpLink:
        link = self._links.get(base)
        if link is None:
            options = self._options
            try:
                link = self._links[base] = HttpLink(
                    base,
                    idle_seconds=_IDLE_SECONDS,
                    connect_seconds=options.connect_seconds,
                    max_answer_bytes=options.max_answer_bytes,
                    tls=self._tls,
                )
            except ConfigurationError as error:
                # The registry has a URL that nobody could ask: to the caller, a server that isn't there.
                raise LinkError(str(error)) from error
        return link


def _away(part: Part, error: OSError) -> UnavailableError:
    if isinstance(error, TlsError):
        # A missing explanation is only a warning in the answer: the log must say why.
        log("error", f"the {part} is not trusted", reason=str(error))
        fix = "Renew its certificate, or correct FASTTRACK_TLS_CA and the deployment's URL."
        return UnavailableError(f"the connection to the {part} can't be trusted.", where=str(error), fix=fix)
    return UnavailableError(f"the {part} does not answer.", where=str(error) or None, fix="Try again in a few seconds.")


async def cancelled(task: asyncio.Task[object]) -> None:
    """Cancel a task whose result nobody wants any more, and wait until it has gone."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
