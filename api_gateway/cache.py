"""Answers that may be given again: what they are filed under, and how they lie in Redis."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, Final

import orjson

from api_gateway.observability import Metrics
from api_gateway.redis_link import RedisLink

_MAX_BYTES: Final = 65_536


def cache_key(usecase: str, *, tenant: str, actions: Iterable[str], digest: str, request: Any) -> str:
    """The name of an answer: callers with other tenants or rights, other models and other bodies get other names.

    Args:
        usecase: use case name.
        tenant: the caller's tenant.
        actions: what the caller may do on the use case.
        digest: the model package's digest.
        request: the request as JSON values; key order and number spelling (1, 1.0) don't matter.
    """
    canonical = orjson.dumps([tenant, sorted(actions), digest, _plain(request)], option=orjson.OPT_SORT_KEYS)
    return f"fasttrack:{{{usecase}}}:answer:{hashlib.sha256(canonical).hexdigest()}"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value


class AnswerCache:
    """Writes answers behind the request; the look-up itself is part of `limits.Limiter.take`."""

    def __init__(self, redis: RedisLink, metrics: Metrics) -> None:
        self._redis = redis
        self._metrics = metrics

    def looked_up(self, usecase: str, *, hit: bool) -> None:
        """Count a look-up."""
        self._metrics.cache.labels(usecase, "hit" if hit else "miss").inc()

    def put(self, key: str, answer: bytes, seconds: float) -> None:
        """Keep a 200's body (a JSON object) for `seconds`; silently not, where Redis is away or the body is large."""
        if seconds > 0 and len(answer) <= _MAX_BYTES:
            self._redis.defer("SET", key, answer, "PX", int(seconds * 1000))


def complete(answer: bytes, *, cached: bool, trace_id: str, experiment: dict[str, str] | None = None) -> bytes:
    """A stored answer with what differs each time: whether it came from the cache, its arm, and the trace id."""
    arm = b',"experiment":' + orjson.dumps(experiment) if experiment is not None else b""
    flag = b"true" if cached else b"false"
    return answer[:-1] + arm + b',"cached":%s,"trace_id":"%s"}' % (flag, trace_id.encode())
