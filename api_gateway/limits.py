"""Rate limits by GCRA: one Lua script on Redis' clock, which also looks the answer up in the cache."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import uuid4

from api_gateway.observability import Metrics, log
from api_gateway.redis_link import RedisLink
from fasttrack.errors import RateLimitError, UnavailableError
from fasttrack.redis_wire import Refusal
from fasttrack.usecase.serving import RateLimit

# KEYS: one a limit [, cache key]. ARGV: number of limits, then microseconds a request, burst and cost of each.
# Either all limits give a request or none does. A theoretical arrival time is rounded up, so rounding can only cost a
# caller, never give it a request more. The answer is the limit's that refuses, else that of which least is left.
SCRIPT: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local count = tonumber(ARGV[1])
local arrivals = {}
for i = 1, count do
  local interval, burst, cost = tonumber(ARGV[3 * i - 1]), tonumber(ARGV[3 * i]), tonumber(ARGV[3 * i + 1])
  local arrival = math.max(tonumber(redis.call('GET', KEYS[i]) or now), now)
  local wait = arrival + interval * cost - interval * burst - now
  if wait > 0 then
    return {0, 0, math.ceil(wait), math.ceil(arrival - now), false, i}
  end
  arrivals[i] = math.ceil(arrival + interval * cost)
end
local least, reset, tightest = nil, 0, 1
for i = 1, count do
  local interval, burst, arrival = tonumber(ARGV[3 * i - 1]), tonumber(ARGV[3 * i]), arrivals[i]
  redis.call('SET', KEYS[i], string.format('%.0f', arrival), 'PX', math.ceil((arrival - now) / 1000) + 1)
  local left = math.floor((now + interval * burst - arrival) / interval)
  if least == nil or left < least then least, reset, tightest = left, math.ceil(arrival - now), i end
end
local found = false
if KEYS[count + 1] then found = redis.call('GET', KEYS[count + 1]) end
return {1, least, 0, reset, found, tightest}
"""
_DIGEST: Final = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()
_PEERS: Final = "fasttrack:gateways"
_PEER_SECONDS: Final = 10.0
_LOCAL_KEYS: Final = 50_000
_OF: Final = {"tenant": " of all of the tenant's callers", "budget": ", a caller's budget for this model"}


@dataclass(frozen=True, slots=True)
class Limit:
    """What is counted together: requests under `key`, so many as `policy` says; callers read `name`.

    Attributes:
        cost: how many requests this one counts as.
    """

    name: str
    key: str
    policy: RateLimit
    cost: int = 1


@dataclass(frozen=True, slots=True)
class Decision:
    """The limiter's answer.

    Attributes:
        allowed: whether the request may go on.
        remaining: requests that could follow at once.
        retry_after: seconds until the next one may come, where it was refused.
        reset: seconds until the whole burst is free again.
        cached: what the cache holds under the cache key that was asked with it.
        limit: which limit this is about: the one that refuses, else the one of which least is left.
    """

    allowed: bool
    remaining: int
    retry_after: float
    reset: float
    cached: bytes | None
    limit: Limit

    def headers(self) -> list[tuple[bytes, bytes]]:
        """``RateLimit-Policy``, ``RateLimit`` and, after a refusal, ``Retry-After`` (whole seconds, rounded up)."""
        policy, name = self.limit.policy, self.limit.name.encode()
        window = math.ceil(policy.per.total_seconds())
        found = [
            (b"ratelimit-policy", b'"%b";q=%d;w=%d' % (name, policy.requests, window)),
            (b"ratelimit", b'"%b";r=%d;t=%d' % (name, self.remaining, math.ceil(self.reset))),
        ]
        if not self.allowed:
            found.append((b"retry-after", b"%d" % max(1, math.ceil(self.retry_after))))
        return found

    def check(self) -> None:
        """Do nothing if the request may go on.

        Raises:
            RateLimitError: it may not.
        """
        if not self.allowed:
            policy = self.limit.policy
            raise RateLimitError(
                f"more than {policy.requests} requests in {policy.per.total_seconds():g} s (bursts of {policy.burst})"
                f"{_OF.get(self.limit.name, '')}.",
                fix=f"Try again in {max(1, math.ceil(self.retry_after))} s.",
            )


class LocalLimiter:
    """GCRA in this process's memory, for the time that Redis is away."""

    def __init__(self) -> None:
        self._arrivals: dict[str, float] = {}

    def take(
        self, keys: Sequence[str], limits: Sequence[Limit], gateways: int = 1, now: float | None = None
    ) -> Decision:
        """Take one request from all limits or from none.

        Args:
            keys: what each limit is remembered under.
            limits: of which this gateway has the share of one of `gateways`.
            now: the monotonic clock.
        """
        now = time.monotonic() if now is None else now
        arrivals = [max(self._arrivals.get(key, now), now) for key in keys]
        found: list[Decision] = []
        for limit, arrival in zip(limits, arrivals, strict=True):
            interval, burst = _interval(limit.policy) * gateways, max(1.0, limit.policy.burst / gateways)
            taken = interval * limit.cost
            wait = arrival + taken - interval * burst - now
            if wait > 1e-9:
                return Decision(False, 0, wait, arrival - now, None, limit)
            left = int((now + interval * burst - arrival - taken) / interval + 1e-9)
            found.append(Decision(True, max(0, left), 0.0, arrival + taken - now, None, limit))
        if len(self._arrivals) >= _LOCAL_KEYS:
            self._arrivals = {name: at for name, at in self._arrivals.items() if at > now}
        self._arrivals.update({key: now + each.reset for key, each in zip(keys, found, strict=True)})
        return min(found, key=lambda each: each.remaining)


class Limiter:
    """Limits shared by all gateways through Redis; each gateway's share of them while Redis is away."""

    def __init__(self, redis: RedisLink, metrics: Metrics) -> None:
        self._redis = redis
        self._metrics = metrics
        self._local = LocalLimiter()
        self._name = uuid4().hex
        self.gateways = 1

    async def take(self, usecase: str, limits: Sequence[Limit], cache_key: str | None = None) -> Decision:
        """Take one request from each of a use case's limits, or from none, and look `cache_key` up on the way.

        Never raises: without Redis the decision is local and nothing is cached.
        """
        # The braces keep all keys on one shard of a Redis cluster.
        keys = [f"fasttrack:{{{usecase}}}:{limit.name}:{limit.key}" for limit in limits]
        try:
            reply = await self._evaluate(keys, limits, cache_key)
            limit = limits[reply[5] - 1]
            decision = Decision(reply[0] == 1, reply[1], reply[2] / 1e6, reply[3] / 1e6, reply[4], limit)
        except (UnavailableError, Refusal) as error:
            if isinstance(error, Refusal):
                log("error", "Redis refused the limit script", reason=str(error)[:200])
            self._metrics.local_limits.inc()
            decision = self._local.take(keys, limits, self.gateways)
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
        except (UnavailableError, Refusal) as error:
            log("warning", "gateways can't be counted", reason=type(error).__name__)

    def leave(self) -> None:
        """Give this gateway's share to the others at once."""
        self._redis.send("ZREM", _PEERS, self._name)

    async def _evaluate(self, keys: list[str], limits: Sequence[Limit], cache_key: str | None) -> Any:
        arguments: list[str | int | float] = [len(keys) if cache_key is None else len(keys) + 1, *keys]
        if cache_key is not None:
            arguments.append(cache_key)
        arguments.append(len(keys))
        for limit in limits:
            arguments += (_interval(limit.policy) * 1e6, limit.policy.burst, limit.cost)
        try:
            return await self._redis.execute("EVALSHA", _DIGEST, *arguments)
        except Refusal as error:
            # A Redis that was restarted has forgotten the script.
            if not str(error).startswith("NOSCRIPT"):
                raise
            return await self._redis.execute("EVAL", SCRIPT, *arguments)


def _interval(policy: RateLimit) -> float:
    """Seconds a request."""
    return policy.per.total_seconds() / policy.requests
