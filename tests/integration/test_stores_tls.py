"""Redis and PostgreSQL by TLS, with a certificate of ours where they ask for one, behind a relay that speaks it."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg2.extensions import make_dsn, parse_dsn

from api_gateway.redis_link import RedisLink
from fasttrack.errors import ConfigurationError, NotFoundError, UnavailableError
from fasttrack.features.online import OnlineStore, materialize
from fasttrack.redis_wire import secured
from fasttrack.registry.store import Registry
from fasttrack.settings import Settings
from tests.features_histories import random_histories, shop, write_lake
from tests.features_reference import minutes
from tests.integration.certificates import Authority, Pair
from tests.integration.gateway_redis import redis_server
from tests.integration.registry_database import opened
from tests.integration.tls_relay import tls_to
from tests.loopback import HOST

SHOP = shop()
ASKED = {"customer": "a", "store": 1}


def demanding(pair: Pair, authority: Authority) -> ssl.SSLContext:
    """A server that asks for certificates of the authority."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.ca))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(pair.certificate, pair.key)
    return context


@pytest.fixture
def port(tmp_path: Path, authority: Authority) -> Iterator[int]:
    """Of a Redis by TLS."""
    with redis_server(tmp_path) as server, tls_to(server.port, demanding(authority.issue("redis"), authority)) as port:
        yield port


def settings(url: str, ca: Path, pair: Pair | None, lake: Path) -> Settings:
    mine = {"tls_certificate": str(pair.certificate), "tls_key": str(pair.key)} if pair else {}
    return Settings(redis=url, lake=str(lake), tls_ca=str(ca), **mine)


def up(by: Settings) -> bool:
    """Whether the gateway's connection comes to be."""

    async def story() -> bool:
        link = RedisLink(secured(by.redis, by), patience=5.0)
        try:
            return await link.connect() and await link.execute("PING") == b"PONG"
        finally:
            link.close()

    return asyncio.run(story())


def read_on_the_loop(by: Settings) -> None:
    """A look-up as the transformer does it: it needs no thread, unless for a host's name."""

    async def story() -> None:
        store = OnlineStore(SHOP, by)
        try:
            await store.read_async([{"order_id": "nobody"}])
        finally:
            store.close()
            assert HOST not in by.redis or not [each for each in threading.enumerate() if "asyncio_" in each.name]

    asyncio.run(story())


def test_gateway_and_online_store_come_with_the_settings_certificate(
    port: int, authority: Authority, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lake, url = tmp_path / "lake", f"rediss://{HOST}:{port}/1"
    write_lake(SHOP, lake, random_histories(1))
    mine = settings(url, authority.ca, authority.issue("fasttrack"), lake)
    materialize(SHOP, mine, as_of=minutes(300))
    assert OnlineStore(SHOP, mine).complete(ASKED)["spending_count_7d"] > 0
    assert up(mine)
    with pytest.raises(NotFoundError, match="'nobody' is not in the online store"):
        read_on_the_loop(mine)

    stranger, me = Authority(tmp_path / "stranger"), authority.issue("fasttrack")
    for wrong in (
        settings(url, authority.ca, None, lake),
        settings(url, authority.ca, stranger.issue("fasttrack"), lake),
        settings(url, stranger.ca, me, lake),
        settings(url.replace(HOST, "localhost"), authority.ca, me, lake),
    ):
        assert not up(wrong)
        assert '"reason":"ConnectionError"' not in capsys.readouterr().out
        with pytest.raises(UnavailableError, match="the online store doesn't answer"):
            OnlineStore(SHOP, wrong).complete(ASKED)
        with pytest.raises(UnavailableError, match="the online store doesn't answer"):
            read_on_the_loop(wrong)
    old = settings(url, authority.ca, authority.issue("fasttrack", expired=True), lake)
    for do in (lambda: up(old), lambda: OnlineStore(SHOP, old).complete(ASKED)):
        with pytest.raises(ConfigurationError, match="the certificate has expired"):
            do()


def test_postgres_is_verified_as_its_url_says(
    dsn: str, registry: Registry, authority: Authority, tmp_path: Path
) -> None:
    me, stranger = authority.issue("fasttrack"), Authority(tmp_path / "stranger")
    me.key.chmod(0o600)  # libpq takes no other
    plain = parse_dsn(dsn)
    with tls_to(int(plain["port"]), demanding(authority.issue("postgres"), authority), postgres=True) as port:

        def by(ca: Path, pair: Pair | None) -> str:
            options = {"sslmode": "verify-full", "sslrootcert": str(ca)}
            options |= {"sslcert": str(pair.certificate), "sslkey": str(pair.key)} if pair else {}
            return make_dsn(**{**plain, "host": HOST, "port": port, **options})

        with opened(by(authority.ca, me), patience=2.0) as found:
            assert found.deployments() == ()
        for ca, pair in ((stranger.ca, me), (authority.ca, None)):
            with opened(by(ca, pair), patience=2.0) as found, pytest.raises(UnavailableError):
                found.deployments()
