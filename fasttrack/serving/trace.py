"""Trace context and deadline of the request that is being served (W3C traceparent)."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from fasttrack.errors import DeadlineError

TRACE_HEADER: Final = "traceparent"
#: Milliseconds that the caller still waits, as the gateway says it. gRPC has a deadline of its own, which is used where
#: the header is absent.
DEADLINE_HEADER: Final = "x-request-deadline-ms"
_TRACE: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
# Trace ids are names, not secrets: they need to differ, and a system call for each costs more than the rest of a trace.
_RANDOM: Final = random.Random()


@dataclass(frozen=True)
class RequestContext:
    """What a request carries besides its body.

    Attributes:
        trace_id: 32 hex digits, the caller's or a new one.
        span_id: 16 hex digits, new for this server's part.
        flags: the sampling flags of the caller.
        expires: `time.monotonic` at which the caller gives up; ``None`` if it didn't say.
    """

    trace_id: str
    span_id: str
    flags: str = "01"
    expires: float | None = None

    @classmethod
    def read(cls, headers: Mapping[str, str], remaining: float | None = None) -> RequestContext:
        """From lower-case headers or gRPC metadata; a malformed traceparent is replaced, as W3C asks.

        Args:
            headers: `TRACE_HEADER` and `DEADLINE_HEADER` are read.
            remaining: seconds left, for transports that know.
        """
        match = _TRACE.fullmatch(headers.get(TRACE_HEADER, ""))
        text = headers.get(DEADLINE_HEADER, "")
        if text.isascii() and text.isdigit():
            remaining = int(text[:9]) / 1000
        expires = None if remaining is None else time.monotonic() + remaining
        trace_id, flags = (match[1], match[3]) if match else (f"{_RANDOM.getrandbits(128) or 1:032x}", "01")
        return cls(trace_id, f"{_RANDOM.getrandbits(64) or 1:016x}", flags, expires)

    def remaining(self) -> float | None:
        """Seconds left, at least 0; ``None`` without a deadline."""
        return None if self.expires is None else max(0.0, self.expires - time.monotonic())

    def check(self) -> None:
        """Do no work for a caller that is gone.

        Raises:
            DeadlineError: if it has passed.
        """
        if self.expires is not None and time.monotonic() >= self.expires:
            raise DeadlineError("the caller's deadline has passed.", where=DEADLINE_HEADER, fix="Allow more time.")

    def outgoing(self) -> dict[str, str]:
        """Headers for a request made on behalf of this one."""
        headers = {TRACE_HEADER: f"00-{self.trace_id}-{self.span_id}-{self.flags}"}
        if (left := self.remaining()) is not None:
            headers[DEADLINE_HEADER] = str(int(left * 1000))
        return headers


_current: ContextVar[RequestContext | None] = ContextVar("fasttrack_request", default=None)


def enter(context: RequestContext) -> None:
    """Make `context` that of the running task."""
    _current.set(context)


def current() -> RequestContext:
    """The context of the request being served; a fresh one outside of requests."""
    return _current.get() or RequestContext.read({})
