"""Metrics, JSON log lines (Elastic Common Schema names) and W3C trace context."""

from __future__ import annotations

import random
import re
import sys
import time
import traceback
from dataclasses import dataclass
from typing import Any, Final

import orjson
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_TRACEPARENT: Final = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
)
_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

# Trace ids are names, not secrets: they need to differ, and a system call for each costs more than the rest of a trace.
_RANDOM: Final = random.Random()


def log(level: str, message: str, **facts: Any) -> None:
    """One JSON line on stdout; `facts` must not hold tokens, keys or bodies."""
    now = time.time()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
    line = {"@timestamp": f"{stamp}.{int(now % 1 * 1000):03d}Z", "log.level": level, "message": message, **facts}
    sys.stdout.buffer.write(orjson.dumps(line, default=str, option=orjson.OPT_APPEND_NEWLINE))
    sys.stdout.buffer.flush()


def log_failure(message: str, error: BaseException, **facts: Any) -> None:
    """An unexpected error with its trace, which callers never get to see."""
    trace = "".join(traceback.format_exception(error))
    log("error", message, **{"error.type": type(error).__name__, "error.stack_trace": trace[-4000:]}, **facts)


@dataclass(frozen=True, slots=True)
class Trace:
    """The trace that a request belongs to and our span in it."""

    trace_id: str
    span_id: str
    flags: str = "01"

    @classmethod
    def of(cls, traceparent: str | None) -> Trace:
        """Continue the caller's trace; start one where there is none or it is malformed."""
        span = f"{_RANDOM.getrandbits(64) or 1:016x}"
        match = _TRACEPARENT.fullmatch(traceparent) if traceparent and len(traceparent) < 256 else None
        if match is None or (match[4] and traceparent and traceparent.startswith("00")):
            return cls(f"{_RANDOM.getrandbits(128) or 1:032x}", span)
        return cls(match[1], span, match[3])

    @property
    def traceparent(self) -> str:
        """The header for the next hop."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"


class Metrics:
    """The gateway's Prometheus metrics; one registry an app, so that several apps fit in one process."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        prefix = "fasttrack_gateway_"
        self._requests = Counter(
            f"{prefix}requests", "Answered requests.", ["usecase", "route", "method", "status"], registry=registry
        )
        self._seconds = Histogram(
            f"{prefix}request_seconds", "Time to answer.", ["route"], buckets=_BUCKETS, registry=registry
        )
        self.in_flight = Gauge(f"{prefix}in_flight", "Requests under way.", registry=registry)
        self.cache = Counter(f"{prefix}cache_lookups", "Cache look-ups.", ["usecase", "result"], registry=registry)
        self.limited = Counter(f"{prefix}limited", "Requests over their limit.", ["usecase"], registry=registry)
        self.local_limits = Counter(
            f"{prefix}local_limit_decisions", "Limits decided without Redis.", registry=registry
        )
        self.upstream = Counter(
            f"{prefix}upstream_requests", "Calls to model servers.", ["part", "result"], registry=registry
        )
        self.upstream_seconds = Histogram(
            f"{prefix}upstream_seconds", "Time of model servers.", ["part"], buckets=_BUCKETS, registry=registry
        )
        self.audit_rows = Counter(f"{prefix}audit_rows", "Audit and prediction rows.", ["result"], registry=registry)
        self._webhooks = Counter(
            f"{prefix}webhooks", "Webhook requests, by what became of them.", ["usecase", "source", "outcome"],
            registry=registry,
        )  # fmt: skip
        self._events = Counter(
            f"{prefix}webhook_events", "Events of webhooks that are in Kafka.", ["usecase", "source"], registry=registry
        )
        self._arms = Counter(
            f"{prefix}rollout_requests", "Predictions of a rollout, by arm and whether its servers failed them.",
            ["usecase", "arm", "failed"], registry=registry,
        )  # fmt: skip
        self._children: dict[tuple[str, ...], Any] = {}

    def answered(self, route: str, method: str, status: int, seconds: float, usecase: str = "") -> None:
        """Count one answer.

        Args:
            route: the template, so that paths can't blow up the number of series.
            method, status, seconds: of the answer.
            usecase: one that is there; empty where none is meant, or a caller made its name up.
        """
        key = (usecase, route, method, str(status))
        found = self._children.get(key)
        if found is None:
            found = self._children[key] = (self._requests.labels(*key), self._seconds.labels(route))
        found[0].inc()
        found[1].observe(seconds)

    def arm(self, usecase: str, arm: str, *, failed: bool) -> None:
        """Count one prediction of a rollout."""
        self._arms.labels(usecase, arm, str(failed).lower()).inc()

    def webhook(self, usecase: str, source: str, outcome: str, events: int = 0) -> None:
        """Count one webhook request; both names are empty if there is no such webhook."""
        self._webhooks.labels(usecase, source, outcome).inc()
        if events:
            self._events.labels(usecase, source).inc(events)
