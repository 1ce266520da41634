"""How the online store meets Redis: accounts, TLS, a server that hangs or refuses, and values that are damaged."""

from __future__ import annotations

import signal
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from redis import Redis

from fasttrack.errors import IntegrityError, UnavailableError
from fasttrack.features.online import OnlineStore, materialize
from fasttrack.features.online.definitions import project, views
from fasttrack.features.online.layout import KeyLayout, field_name
from fasttrack.settings import Settings
from tests.features_histories import random_histories, shop, write_lake
from tests.features_reference import minutes
from tests.integration.gateway_redis import RedisServer, redis_server
from tests.integration.tls_relay import tls_to
from tests.loopback import HOST

SHOP = shop()
ASKED = {"customer": "a", "store": 1}


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as server:
        yield server


@pytest.fixture
def settings(tmp_path: Path, redis: RedisServer) -> Settings:
    write_lake(SHOP, tmp_path / "lake", random_histories(1))
    return Settings(lake=str(tmp_path / "lake"), redis=redis.url)


def visits(settings: Settings) -> float:
    """The customer's visits, as served."""
    return OnlineStore(SHOP, settings).complete(ASKED)["spending_count_7d"]


@pytest.mark.parametrize("password", ["1e3", "true", "pass/word@:%20 ü\"'"])
def test_the_account_of_the_url_writes_and_reads(settings: Settings, redis: RedisServer, password: str) -> None:
    with Redis.from_url(redis.url) as admin:
        admin.acl_setuser("feeder", enabled=True, passwords=[f"+{password}"], categories=["+@all"], keys=["*"])
        admin.config_set("requirepass", "another")
    account = Settings(lake=settings.lake, redis=f"redis://feeder:{quote(password, safe='')}@{HOST}:{redis.port}/2")
    materialize(SHOP, account, as_of=minutes(300))
    assert visits(account) > 0
    for wrong in (redis.url, f"redis://feeder:secret@{HOST}:{redis.port}/2"):
        with pytest.raises(UnavailableError, match="doesn't answer") as caught:
            visits(Settings(redis=wrong))
        assert "secret" not in str(caught.value)


def test_tls_with_a_private_authority(settings: Settings, redis: RedisServer, tmp_path: Path) -> None:
    certificate = self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with tls_to(redis.port, context) as port:
        url = f"rediss://{HOST}:{port}/1"
        trusting = Settings(lake=settings.lake, redis=f"{url}?ssl_ca_certs={quote(str(certificate))}")
        materialize(SHOP, trusting, as_of=minutes(300))
        assert visits(trusting) == visits(settings) > 0
        with pytest.raises(UnavailableError, match="certificate"):
            visits(Settings(redis=url))


def test_a_redis_that_hangs_is_told_and_its_return_is_enough(settings: Settings, redis: RedisServer) -> None:
    """Without a limit of its own this test would never end."""
    materialize(SHOP, settings, as_of=minutes(300))
    store = OnlineStore(SHOP, settings)
    before = store.complete(ASKED)
    redis.send_signal(signal.SIGSTOP)
    for _ in range(2):  # the pooled connection, then a new one
        with pytest.raises(UnavailableError, match="Timeout"):
            store.complete(ASKED)
    redis.send_signal(signal.SIGCONT)
    assert repr(store.complete(ASKED)) == repr(before)


def test_a_redis_that_was_restarted_is_asked_again_at_once(settings: Settings, redis: RedisServer) -> None:
    materialize(SHOP, settings, as_of=minutes(300))
    store = OnlineStore(SHOP, settings)
    before = store.complete(ASKED)
    redis.kill()
    redis.start()
    materialize(SHOP, settings, as_of=minutes(300))
    assert repr(store.complete(ASKED)) == repr(before)


def test_replies_never_answer_another_lookup(settings: Settings, redis: RedisServer) -> None:
    """An error in the middle of the replies leaves some unread; the next lookup must not get them."""
    materialize(SHOP, settings, as_of=minutes(300))
    store = OnlineStore(SHOP, settings)
    before = store.complete(ASKED)
    customer = KeyLayout(project(SHOP), ["customer"])
    with Redis.from_url(redis.url) as admin:
        admin.set(customer.encode({"customer": "no hash"}), "text")
    for _ in range(3):
        with pytest.raises(UnavailableError, match="WRONGTYPE"):
            store.complete({"customer": "no hash"})
        assert repr(store.complete(ASKED)) == repr(before)


def test_a_damaged_value_is_never_served(settings: Settings, redis: RedisServer) -> None:
    materialize(SHOP, settings, as_of=minutes(300))
    (view,) = (view for view in views(SHOP) if view.name == "customer")
    key, store = KeyLayout(project(SHOP), view.keys).encode(ASKED), OnlineStore(SHOP, settings)
    with Redis.from_url(redis.url) as admin:
        # A double cut short; a whole event and a half.
        for column, value in (("spending_mean_7d", b"\x29\x00"), ("recent", b"\x7a\x0a\x0a\x08" + bytes(8))):
            good = admin.hget(key, field_name(view.name, column))
            admin.hset(key, field_name(view.name, column), value)
            with pytest.raises(IntegrityError, match="features step"):
                store.complete(ASKED)
            admin.hset(key, field_name(view.name, column), good)
    assert store.complete(ASKED)["spending_count_7d"] > 0


def self_signed(folder: Path) -> Path:
    """A file with a key and the certificate of the loopback address."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "redis of a test")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(HOST))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / "tls.pem"
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return path
