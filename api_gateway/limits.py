"""Rate limits by GCRA: one Lua script on Redis' clock, which also looks the answer up in the cache."""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import dataclass
from typing import Any, Final
from uuid import uuid4

from api_gateway.observability import Metrics, log
from api_gateway.redis_link import RedisError, RedisLink
from fasttrack.errors import RateLimitError, UnavailableError
from fasttrack.usecase.serving import RateLimit

# KEYS: limit key [, cache key]. ARGV: microseconds a request, burst.
# The theoretical arrival time is rounded up, so rounding can only cost a caller, never give it a request more.
SCRIPT: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local interval, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local arrival = math.max(tonumber(redis.call('GET', KEYS[1]) or now), now)
local wait = arrival + interval - interval * burst - now
if wait > 0 then
  return {0, 0, math.ceil(wait), math.ceil(arrival - now), false}
end
arrival = math.ceil(arrival + interval)
redis.call('SET', KEYS[1], string.format('%.0f', arrival), 'PX', math.ceil((arrival - now) / 1000) + 1)
local found = false
if KEYS[2] then found = redis.call('GET', KEYS[2]) end
return {1, math.floor((now + interval * burst - arrival) / interval), 0, math.ceil(arrival - now), found}
"""
_DIGEST: Final = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()
_PEERS: Final = "fasttrack:gateways"
_PEER_SECONDS: Final = 10.0
_LOCAL_KEYS: Final = 50_000


@dataclass(frozen=True, slots=True)
class Decision:
    """The limiter's answer.

    Attributes:
        allowed: whether the request may go on.
        remaining: requests that could follow at once.
        retry_after: seconds until the next one may come, where it was refused.
        reset: seconds until the whole burst is free again.
        cached: what the cache holds under the cache key that was asked with it.
    """

    allowed: bool
    remaining: int
    retry_after: float
    reset: float
    cached: bytes | None = None

    def headers(self, policy: RateLimit) -> list[tuple[bytes, bytes]]:
        """``RateLimit-Policy``, ``RateLimit`` and, after a refusal, ``Retry-After`` (whole seconds, rounded up)."""
        window = math.ceil(policy.per.total_seconds())
        found = [
            (b"ratelimit-policy", b'"usecase";q=%d;w=%d' % (policy.requests, window)),
            (b"ratelimit", b'"usecase";r=%d;t=%d' % (self.remaining, math.ceil(self.reset))),
        ]
        if not self.allowed:
            found.append((b"retry-after", b"%d" % max(1, math.ceil(self.retry_after))))
        return found

    def check(self, policy: RateLimit) -> None:
        """Do nothing if the request may go on.

        Raises:
            RateLimitError: it may not.
        """
        if not self.allowed:
            raise RateLimitError(
                f"more than {policy.requests} requests in {policy.per.total_seconds():g} s (bursts of {policy.burst}).",
                fix=f"Try again in {max(1, math.ceil(self.retry_after))} s.",
            )


class LocalLimiter:
    """GCRA in this process's memory, for the time that Redis is away."""

    def __init__(self) -> None:
        self._arrivals: dict[str, float] = {}

    def take(self, key: str, interval: float, burst: float, now: float | None = None) -> Decision:
        """Take one request; `interval` is seconds a request, `now` the monotonic clock."""
        now = time.monotonic() if now is None else now
        arrival = max(self._arrivals.get(key, now), now)
        wait = arrival + interval - interval * burst - now
        if wait > 1e-9:
            return Decision(False, 0, wait, arrival - now)
        if len(self._arrivals) >= _LOCAL_KEYS:
            self._arrivals = {name: at for name, at in self._arrivals.items() if at > now}
        self._arrivals[key] = arrival + interval
        left = int((now + interval * burst - arrival - interval) / interval + 1e-9)
        return Decision(True, max(0, left), 0.0, arrival + interval - now)


class Limiter:
    """Limits shared by all gateways through Redis; each gateway's share of them while Redis is away."""

    def __init__(self, redis: RedisLink, metrics: Metrics) -> None:
        self._redis = redis
        self._metrics = metrics
        self._local = LocalLimiter()
        self._name = uuid4().hex
        self.gateways = 1

    async def take(self, identity: str, usecase: str, policy: RateLimit, cache_key: str | None = None) -> Decision:
        """Take one request of `identity` on `usecase`, and look `cache_key` up on the way.

        Never raises: without Redis the decision is local and nothing is cached.
        """
        interval = policy.per.total_seconds() / policy.requests
        # The braces keep both keys on one shard of a Redis cluster.
        key = f"fasttrack:{{{usecase}}}:limit:{identity}"
        keys = (key,) if cache_key is None else (key, cache_key)
        try:
            reply = await self._evaluate(keys, interval * 1e6, policy.burst)
            decision = Decision(reply[0] == 1, reply[1], reply[2] / 1e6, reply[3] / 1e6, reply[4])
        except (UnavailableError, RedisError) as error:
            if isinstance(error, RedisError):
                log("error", "Redis refused the limit script", reason=str(error)[:200])
            self._metrics.local_limits.inc()
            burst = max(1.0, policy.burst / self.gateways)
            decision = self._local.take(key, interval * self.gateways, burst)
        if not decision.allowed:
            self._metrics.limited.labels(usecase).inc()
        return decision

    async def count_gateways(self) -> None:
        """Tell Redis that this gateway lives, and remember how many do; the last count holds while Redis is away."""
        try:
            now = time.time()
            self._redis.send("ZADD", _PEERS, now, self._name)
            self._redis.send("ZREMRANGEBYSCORE", _PEERS, "-inf", now - _PEER_SECONDS)
            self.gateways = max(1, int(await self._redis.execute("ZCARD", _PEERS)))
        except (UnavailableError, RedisError) as error:
            log("warning", "gateways can't be counted", reason=type(error).__name__)

    def leave(self) -> None:
        """Give this gateway's share to the others at once."""
        self._redis.send("ZREM", _PEERS, self._name)

    async def _evaluate(self, keys: tuple[str, ...], interval: float, burst: int) -> Any:
        arguments: tuple[str | int | float, ...] = (len(keys), *keys, interval, burst)
        try:
            return await self._redis.execute("EVALSHA", _DIGEST, *arguments)
        except RedisError as error:
            # A Redis that was restarted has forgotten the script.
            if not str(error).startswith("NOSCRIPT"):
                raise
            return await self._redis.execute("EVAL", SCRIPT, *arguments)
