"""The event loop's connection to Redis: many questions at a time, a server that hangs, refuses or comes back."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from redis import Redis
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from fasttrack.features.online.link import Link, plain
from fasttrack.redis_wire import bulk
from tests.integration.gateway_redis import RedisServer, redis_server
from tests.loopback import HOST


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as server:
        with Redis.from_url(server.url) as admin:
            for number in range(50):
                admin.hset(f"h{number}", mapping={"a": number, "b": b"\r\n$1\r\n" * number})
            admin.set("text", "no hash")
        yield server


def asked(*keys: str) -> bytes:
    words = [[b"HMGET", key.encode(), b"a", b"b", b"c"] for key in keys]
    return b"".join(b"*5\r\n" + b"".join(map(bulk, command)) for command in words)


def row(number: int) -> list[bytes | None]:
    return [b"%d" % number, b"\r\n$1\r\n" * number, None]


def test_replies_go_to_who_asked(redis: RedisServer) -> None:
    async def story() -> None:
        link = Link(redis.url, 5.0)

        async def one(number: int) -> None:
            keys = [f"h{number}", f"h{(number * 7) % 50}"]
            assert await link.ask(asked(*keys), 2) == [row(number), row(number * 7 % 50)]

        await asyncio.gather(*(one(number % 50) for number in range(500)))
        # Whoever gives up leaves a reply behind that nobody else may get.
        leaving = asyncio.create_task(link.ask(asked("h1"), 1))
        await asyncio.sleep(0)
        leaving.cancel()
        assert await link.ask(asked("h2"), 1) == [row(2)]
        with pytest.raises(ResponseError, match="WRONGTYPE"):
            await link.ask(asked("h1", "text", "h3"), 3)
        assert await link.ask(asked("h4", "nowhere"), 2) == [row(4), [None, None, None]]
        link.close()
        assert await link.ask(asked("h5"), 1) == [row(5)]
        link.close()

    asyncio.run(story())


def test_a_server_that_hangs_is_given_up_and_one_that_is_back_is_asked(redis: RedisServer) -> None:
    async def story() -> None:
        link = Link(redis.url, 0.3)
        assert await link.ask(asked("h1"), 1) == [row(1)]
        redis.send_signal(signal.SIGSTOP)
        for _ in range(2):  # the connection that is there, then a new one
            with pytest.raises(RedisTimeoutError):
                await link.ask(asked("h1"), 1)
        redis.send_signal(signal.SIGCONT)
        assert await link.ask(asked("h1"), 1) == [row(1)]
        redis.kill()
        with pytest.raises(RedisError):
            await link.ask(asked("h1"), 1)
        redis.start()
        assert await link.ask(asked("h1"), 1) == [[None, None, None]]
        link.close()

    asyncio.run(story())


def test_account_and_database_are_those_of_the_url(redis: RedisServer) -> None:
    password = "pass/word@:%20"
    with Redis.from_url(f"redis://{HOST}:{redis.port}/2") as other:
        other.hset("h1", mapping={"a": "second"})
        other.acl_setuser("reader", enabled=True, passwords=[f"+{password}"], categories=["+@all"], keys=["*"])

    async def story() -> None:
        url = f"redis://reader:{quote(password, safe='')}@{HOST}:{redis.port}/2"
        link = Link(url, 5.0)
        assert await link.ask(asked("h1"), 1) == [[b"second", None, None]]
        link.close()
        with pytest.raises(ResponseError, match="WRONGPASS"):
            await Link(url.replace("reader:", "reader:x"), 5.0).ask(asked("h1"), 1)

    asyncio.run(story())


def test_what_is_left_to_redis_py() -> None:
    assert plain("redis://h:1/2")
    assert plain("redis://h:1?db=2")
    assert not plain("rediss://h:1/2")
    assert not plain("redis://h:1/2?socket_timeout=3")
