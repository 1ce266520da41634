"""The event loop's connection to Redis: many questions at a time, a server that hangs, refuses or comes back."""

from __future__ import annotations

import asyncio
import signal
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest
import uvloop
from redis import Redis
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from fasttrack.features.online.link import Link, linkable
from fasttrack.redis_wire import bulk
from tests.integration.certificates import Authority
from tests.integration.gateway_redis import RedisServer, redis_server
from tests.integration.tls_relay import tls_to
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


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_by_tls_each_side_shows_a_certificate_and_takes_the_one_that_is_there_now(
    redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    monkeypatch.setattr("fasttrack.tls._LOOK_SECONDS", 0.0)
    ours, others = Authority(tmp_path / "ours"), Authority(tmp_path / "others")
    server, mine, stranger = ours.issue("redis"), ours.issue("fasttrack"), others.issue("fasttrack")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(ours.ca))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(server.certificate, server.key)

    def link(port: int, host: str, **files: Path) -> Link:
        url = f"rediss://{host}:{port}/1?" + urlencode({f"ssl_{name}": str(path) for name, path in files.items()})
        assert linkable(url)
        return Link(url, 5.0)

    async def story(port: int) -> None:
        good = {"ca_certs": ours.ca, "certfile": mine.certificate, "keyfile": mine.key}
        known = link(port, HOST, **good)
        many = await asyncio.gather(*(known.ask(asked(f"h{number % 50}"), 1) for number in range(200)))
        assert many == [[row(number % 50)] for number in range(200)]
        for host, files, said in (
            (
                HOST,
                {**good, "ca_certs": others.ca},
                "self-signed certificate in certificate chain|unable to get local issuer certificate",
            ),
            ("localhost", good, "hostname mismatch"),
            (HOST, {"ca_certs": ours.ca}, "does not accept our certificate"),
            (
                HOST,
                {**good, "certfile": stranger.certificate, "keyfile": stranger.key},
                "does not accept our certificate",
            ),
        ):
            with pytest.raises(RedisError, match=said):
                await link(port, host, **files).ask(asked("h1"), 1)
        # A renewed pair counts for the next connection, without a restart.
        for pair, comes in ((stranger, False), (ours.issue("renewed"), True)):
            mine.certificate.write_bytes(pair.certificate.read_bytes())
            mine.key.write_bytes(pair.key.read_bytes())
            known.close()
            if comes:
                assert await known.ask(asked("h7"), 1) == [row(7)]
            else:
                with pytest.raises(RedisError):
                    await known.ask(asked("h7"), 1)
        known.close()

    with tls_to(redis.port, context) as port, asyncio.Runner(loop_factory=loop) as runner:
        runner.run(story(port))


def test_what_is_left_to_redis_py() -> None:
    assert linkable("redis://h:1/2")
    assert linkable("redis://h:1?db=2")
    assert linkable("rediss://h:1/2")
    assert linkable("rediss://h:1?db=2&ssl_ca_certs=/ca&ssl_certfile=/crt&ssl_keyfile=/key")
    assert not linkable("redis://h:1/2?socket_timeout=3")
    assert not linkable("rediss://h:1/2?ssl_cert_reqs=none")
    assert not linkable("redis://h:1/2?ssl_ca_certs=/ca")
    assert not linkable("unix:///h")
