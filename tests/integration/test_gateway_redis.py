"""Limits and cache on a real Redis: what is promised holds for several gateways, and while Redis comes and goes."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from api_gateway.limits import Limit, Limiter, LocalLimiter
from api_gateway.observability import Metrics
from api_gateway.redis_link import RedisLink
from fasttrack.errors import ConfigurationError, RateLimitError, UnavailableError
from fasttrack.local.platform import Platform
from fasttrack.registry.records import Deployment
from fasttrack.usecase.serving import RateLimit
from tests.integration.gateway_redis import RedisServer, redis_server
from tests.unit.gateway_harness import ModelServer, Running, deployment, gateway, model_server, until

PLENTY = {"requests": 100_000, "per": "1m", "burst": 10_000}


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as it:
        yield it


def taken(url: str, policy: RateLimit, *, gateways: int, seconds: float, key: str) -> tuple[int, float]:
    """How many requests all gateways together let through, and how long they were asked."""

    async def story() -> tuple[int, float]:
        links = [RedisLink(url, patience=1.0) for _ in range(gateways)]
        for link in links:
            assert await link.connect()
        limiters = [Limiter(link, Metrics()) for link in links]
        started = time.monotonic()

        async def hammer(limiter: Limiter) -> int:
            allowed = 0
            while time.monotonic() - started < seconds:
                decisions = await asyncio.gather(
                    *(limiter.take(key, [Limit("usecase", "alice", policy)]) for _ in range(20))
                )
                allowed += sum(decision.allowed for decision in decisions)
            return allowed

        counts = await asyncio.gather(*(hammer(limiter) for limiter in limiters))
        passed = time.monotonic() - started
        for link in links:
            link.close()
        return sum(counts), passed

    return asyncio.run(story())


@pytest.mark.parametrize(("requests", "per", "burst"), [(50, 1.0, 10), (7, 0.3, 1), (1000, 60.0, 200), (3, 1.7, 5)])
def test_several_gateways_never_let_more_through_than_promised(
    platform: Platform, requests: int, per: float, burst: int
) -> None:
    policy = RateLimit(requests=requests, per=timedelta(seconds=per), burst=burst)
    key = f"gcra-{requests}-{burst}-{time.time_ns()}"
    count, passed = taken(platform.settings().redis, policy, gateways=4, seconds=1.5, key=key)
    assert count <= burst + passed * requests / per
    # A limiter that lets nothing through would pass, too.
    assert count >= burst


def test_local_limits_keep_the_same_promise() -> None:
    limiter, allowed = LocalLimiter(), 0
    for step in range(10_000):
        limit = Limit("usecase", "k", RateLimit(requests=10, per=timedelta(seconds=1), burst=5))
        allowed += limiter.take(["k"], [limit], now=step * 0.001).allowed
    assert 100 <= allowed <= 5 + 100


def test_the_limiter_counts_down_and_says_when(platform: Platform) -> None:
    async def story() -> None:
        link = RedisLink(platform.settings().redis, patience=1.0)
        await link.connect()
        limiter, policy = Limiter(link, Metrics()), RateLimit(requests=1, per=timedelta(hours=1), burst=3)
        key = f"count-{time.time_ns()}"
        decisions = [await limiter.take(key, [Limit("usecase", "alice", policy)]) for _ in range(4)]
        assert [d.allowed for d in decisions] == [True, True, True, False]
        assert [d.remaining for d in decisions] == [2, 1, 0, 0]
        assert 3500 < decisions[3].retry_after <= 3600
        assert (await limiter.take(key, [Limit("usecase", "bob", policy)])).allowed
        link.close()

    asyncio.run(story())


def cached(running: Running, body: Any = None, **token: Any) -> bool:
    roles = token.pop("roles", ["flights-predictor"])
    answer = running.predict(body, token=running.issuer.token(*roles, **token))
    assert answer.status == 200
    return bool(answer.json()["cached"])


def test_only_the_same_question_of_the_same_right_to_the_same_model_is_answered_from_the_cache(
    platform: Platform, tmp_path: Path, server: ModelServer
) -> None:
    from dataclasses import replace

    deployed: list[Deployment] = [deployment(server.url, server.url, rate_limit=PLENTY)]
    unique = {"entity": {"flight_id": f"test-{time.time_ns()}"}}
    with gateway(tmp_path, lambda: list(deployed), redis=platform.settings().redis) as running:
        first = running.predict(unique)
        until(lambda: cached(running, unique))
        second = running.predict(unique)
        assert second.json() == {**first.json(), "cached": True, "trace_id": second.json()["trace_id"]}
        assert second.json()["trace_id"] != first.json()["trace_id"]
        assert cached(running, unique, sub="bob"), "another subject with the same rights shares the answer"
        assert not cached(running, unique, tenant="other")
        assert not cached(running, unique, roles=["flights-admin"])
        assert not cached(running, {**unique, "explain": True})
        assert not cached(running, {"features": {"distance": 1234}})
        until(lambda: cached(running, {"features": {"distance": 1234.0}}))
        digest = "sha256:" + "b" * 64
        deployed[0] = replace(deployed[0], digest=digest)
        until(lambda: not cached(running, unique))
        # The server still answers with the old digest: such an answer must not be kept under the new one.
        assert not cached(running, unique)
        rows = [row for row in running.sink.audit() if row.cached]
        assert rows and all(row.status == 200 and row.request_hash and row.response is None for row in rows)


def test_failures_and_incomplete_answers_are_not_cached(
    platform: Platform, tmp_path: Path, server: ModelServer
) -> None:
    with model_server(status=500) as explainer:
        document = deployment(server.url, explainer.url, rate_limit=PLENTY)
        with gateway(tmp_path, lambda: [document], redis=platform.settings().redis, breaker_failures=99) as running:
            unique = {"entity": {"flight_id": f"test-{time.time_ns()}"}}
            server.status = 500
            assert running.predict(unique).status == 503
            server.status = 200
            assert not cached(running, unique)
            asked = {**unique, "explain": True}
            assert not cached(running, asked)
            assert not cached(running, asked)
            explainer.status = 200
            assert not cached(running, asked)
            until(lambda: cached(running, asked))


def test_cache_can_be_turned_off_and_expires(platform: Platform, tmp_path: Path, server: ModelServer) -> None:
    for setting in ("0s", "50ms"):
        document = deployment(server.url, server.url, rate_limit=PLENTY, cache=setting)
        with gateway(tmp_path, lambda document=document: [document], redis=platform.settings().redis) as running:  # type: ignore[misc]
            unique = {"entity": {"flight_id": f"test-{time.time_ns()}"}}
            assert not cached(running, unique)
            time.sleep(0.1)
            assert not cached(running, unique)


def test_redis_may_die_and_come_back_and_nobody_notices(
    own_redis: RedisServer, tmp_path: Path, server: ModelServer
) -> None:
    document = deployment(server.url, server.url, rate_limit=PLENTY)
    with gateway(tmp_path, lambda: [document], redis=own_redis.url) as running:
        until(lambda: running.app.parts.redis.up)
        token = running.issuer.token("flights-predictor")
        for _ in range(5):
            statuses = [running.predict(token=token).status for _ in range(5)]
            own_redis.kill()
            statuses += [running.predict(token=token).status for _ in range(10)]
            assert running.ask("GET", "/readyz").json()["status"] == "degraded"
            own_redis.start()
            until(lambda: running.predict(token=token).json()["cached"])
            assert statuses == [200] * 15
        until(lambda: running.ask("GET", "/readyz").json()["checks"]["redis"] == "ok")


def test_a_redis_that_hangs_costs_one_wait_and_no_answer(
    own_redis: RedisServer, tmp_path: Path, server: ModelServer
) -> None:
    document = deployment(server.url, server.url, rate_limit=PLENTY)
    with gateway(tmp_path, lambda: [document], redis=own_redis.url) as running:
        until(lambda: running.app.parts.redis.up)
        own_redis.send_signal(signal.SIGSTOP)
        assert [running.predict().status for _ in range(10)] == [200] * 10
        assert not running.app.parts.redis.up
        own_redis.send_signal(signal.SIGCONT)
        until(lambda: running.predict().json()["cached"])


def test_without_redis_the_gateways_share_the_limit(
    own_redis: RedisServer, tmp_path: Path, server: ModelServer
) -> None:
    document = deployment(server.url, server.url, rate_limit={"requests": 1, "per": "1h", "burst": 8})
    with ExitStack() as stack:
        every: list[Running] = []
        for number in range(4):
            folder = tmp_path / str(number)
            folder.mkdir()
            issuer = every[0].issuer if every else None
            context = gateway(folder, lambda: [document], redis=own_redis.url, issuer=issuer)
            every.append(stack.enter_context(context))
        until(lambda: all(running.app.parts.limiter.gateways == 4 for running in every))
        own_redis.kill()
        until(lambda: not any(running.app.parts.redis.up for running in every))
        statuses = [running.predict().status for _ in range(5) for running in every]
        assert statuses.count(200) == 8
        assert statuses.count(429) == 12


def test_deferred_commands_keep_their_order_and_go_alone_where_none_follows(own_redis: RedisServer) -> None:
    async def story() -> None:
        link = RedisLink(own_redis.url, patience=1.0)
        assert await link.connect()
        for number in range(100):
            link.defer("SET", "newest", str(number))
            link.defer("RPUSH", "all", str(number))
            if number % 3 == 0:
                # What was deferred before is there before the answer.
                assert await link.execute("GET", "newest") == str(number).encode()
        link.defer("NONSENSE")
        link.defer("SET", "newest", "last")
        # Nothing follows on this connection; another one sees it all the same.
        other = RedisLink(own_redis.url, patience=1.0)
        assert await other.connect()
        async with asyncio.timeout(10):
            while await other.execute("GET", "newest") != b"last":
                await asyncio.sleep(0.01)
        assert await link.execute("LRANGE", "all", 0, -1) == [str(number).encode() for number in range(100)]
        other.close()
        link.defer("SET", "newest", "lost")
        link.close()

    asyncio.run(story())


def test_links_with_wrong_urls_and_dead_servers(own_redis: RedisServer) -> None:
    with pytest.raises(ConfigurationError, match="FASTTRACK_REDIS"):
        RedisLink("http://127.0.0.1", patience=0.1)

    async def story() -> None:
        dead = RedisLink("redis://127.0.0.1:1", patience=0.1)
        assert not await dead.connect()
        with pytest.raises(UnavailableError):
            await dead.execute("PING")
        link = RedisLink(own_redis.url, patience=0.5)
        assert await link.connect()
        large = b"x" * 1_000_000
        await link.execute("SET", "large", large)
        replies = await asyncio.gather(*(link.execute("GET", "large") for _ in range(5)), link.execute("GET", "none"))
        assert replies == [large] * 5 + [None]
        assert await link.execute("EVAL", "return {1, 'a', {2, false}, {}}", 0) == [1, b"a", [2, None], []]
        link.close()

    asyncio.run(story())


def test_all_limits_give_or_none_does(platform: Platform) -> None:
    async def story() -> None:
        link = RedisLink(platform.settings().redis, patience=1.0)
        await link.connect()
        hour, key = timedelta(hours=1), f"several-{time.time_ns()}"
        each, together = (RateLimit(requests=1, per=hour, burst=burst) for burst in (3, 4))

        def limits(who: str, cost: int = 1) -> list[Limit]:
            return [Limit("usecase", who, each), Limit("tenant", "acme", together, cost)]

        for limiter in (Limiter(link, Metrics()), Limiter(RedisLink("redis://127.0.0.1:1", patience=0.1), Metrics())):
            found = [await limiter.take(key, limits(who)) for who in ("alice", "alice", "alice", "alice", "bob", "bob")]
            assert [d.allowed for d in found] == [True, True, True, False, True, False]
            # Alice's own limit refused her, the tenant's bob; what was refused took nothing from the other limit.
            assert [d.limit.name for d in found[3:]] == ["usecase", "tenant", "tenant"]
            assert found[0].remaining == 2 and found[4].remaining == 0
            with pytest.raises(RateLimitError, match=r"bursts of 4\) of all of the tenant's callers"):
                found[5].check()
            dear = await limiter.take(key, [Limit("budget", "carol", each, cost=3)])
            assert (dear.allowed, dear.remaining) == (True, 0)
            assert not (await limiter.take(key, [Limit("budget", "dave", each, cost=4)])).allowed
        link.close()

    asyncio.run(story())


def test_a_query_budget_counts_rows_whatever_route_they_take(
    platform: Platform, tmp_path: Path, server: ModelServer
) -> None:
    budget = {"requests": 10, "per": "1h", "burst": 10}
    name = f"budget-{time.time_ns()}"
    deployed = deployment(server.url, server.url, name=name, rate_limit=PLENTY, query_budget=budget, cache="0s",
                          score_digits=1)  # fmt: skip
    tensor = {"name": "distance", "datatype": "FP64", "shape": [7], "data": [1.0] * 7}
    with gateway(tmp_path, lambda: [deployed], redis=platform.settings().redis) as running:
        token = running.issuer.token("flights-admin")
        first = running.ask("POST", f"/v1/usecases/{name}/predict", {"entity": {"flight_id": "a"}}, token=token)
        assert first.status == 200
        assert first.json()["prediction"]["probability"] == 0.8
        infer = f"/v2/models/{name}/infer"
        assert running.ask("POST", infer, {"inputs": [tensor]}, token=token).status == 200
        refused = running.ask("POST", infer, {"inputs": [tensor]}, token=token)
        assert refused.status == 429
        assert "budget for this model" in refused.json()["detail"]
        assert int(refused.headers["retry-after"]) > 60
        # Two are left, and one of another caller's ten.
        for number, status in enumerate((200, 200, 429)):
            body = {"entity": {"flight_id": f"b-{number}"}}
            assert running.ask("POST", f"/v1/usecases/{name}/predict", body, token=token).status == status
        other = running.issuer.token("flights-admin", sub="bob")
        assert running.ask("POST", infer, {"inputs": [tensor]}, token=other).status == 200


def test_a_use_case_says_what_is_done_with_values_out_of_range(tmp_path: Path, server: ModelServer) -> None:
    for said, status in (("flag", 200), ("refuse", 400)):
        deployed = deployment(server.url, server.url, out_of_range=said)
        folder = tmp_path / said
        folder.mkdir()
        with gateway(folder, lambda deployed=deployed: [deployed]) as running:
            row = {"carrier": "AA", "origin": "JFK", "destination": "LAX", "distance": 999_999}
            assert running.predict({"features": row}).status == status
