"""TLS from files: who trusts whom, and certificates that are renewed."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from fasttrack.errors import ConfigurationError
from fasttrack.http_link import BrokenLinkError, HttpLink, TlsError
from fasttrack.pem import Files
from fasttrack.redis_wire import secured, trust
from fasttrack.serving.flags import parse
from fasttrack.settings import Settings
from fasttrack.tls import ClientTls, ServerTls
from tests.integration.certificates import FLAGS, Authority, Pair, files
from tests.loopback import HOST
from tests.unit.gateway_harness import until

UNKNOWN = "certificate is not accepted: (unable to get local issuer|self-signed)"
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Changed files are looked up at each connection."""
    monkeypatch.setattr("fasttrack.tls._LOOK_SECONDS", 0.0)
    yield


def test_flags_of_the_model_servers() -> None:
    base = ["--model_name", "m", "--package", "p", "--predictor_host", "h:1"]
    assert not parse("transformer", base).predictor_use_ssl
    for word, meant in (("true", True), ("True", True), ("1", True), ("false", False)):
        assert parse("transformer", [*base, "--predictor_use_ssl", word]).predictor_use_ssl is meant
    with pytest.raises(SystemExit):
        parse("transformer", [*base, "--predictor_use_ssl", "perhaps"])
    # Its scheme would be taken for the host's name.
    with pytest.raises(ConfigurationError, match="--predictor_use_ssl true"):
        parse("transformer", [*base, "--predictor_host", "https://h:1"])
    assert parse("predictor", [*base, "--tls_certificate", "c", "--tls_client_ca", "a"]).tls == Files(
        "c", "", "a", FLAGS
    )


# ---- connections


@asynccontextmanager
async def serving(context: ssl.SSLContext | None):  # type: ignore[no-untyped-def]
    """A server that answers each request; yields its port."""

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.read(4096):
                writer.write(ANSWER)
        except OSError:
            writer.close()

    server = await asyncio.start_server(say, HOST, 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def ask(port: int, tls: ClientTls | None, host: str = HOST) -> bytes:
    """One request on a connection of its own."""
    link = HttpLink(f"https://{host}:{port}", idle_seconds=5.0, connect_seconds=5.0, tls=tls)
    try:
        return (await link.exchange("/", None, {}, 5.0)).body
    finally:
        await link.close()


def run(story: Callable[[], Awaitable[None]], *, fast: bool = True) -> None:
    """On the loop of the servers, or on Python's own."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop if fast else None) as runner:
        runner.run(story())  # type: ignore[arg-type]


def outlived(pair: Pair) -> ssl.SSLContext:
    """A server whose certificate has expired since it started."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    return context


@pytest.mark.parametrize("fast", [True, False])
def test_each_side_verifies_the_other(authority: Authority, stranger: Authority, fast: bool) -> None:
    server, caller = authority.issue("server"), authority.issue("caller")

    async def story() -> None:
        async with serving(ServerTls(files(server, authority.ca)).listener()) as port:
            assert await ask(port, ClientTls(files(caller, authority.ca))) == b"hi"
            for unknown in (None, stranger.issue("caller")):
                with pytest.raises((BrokenLinkError, TlsError), match=r"does not accept our certificate|no TLS"):
                    await ask(port, ClientTls(files(unknown, authority.ca)))
            for tls, host, said in (
                (
                    ClientTls(files(caller, stranger.ca)),
                    HOST,
                    UNKNOWN,
                ),
                (ClientTls(files(caller)), HOST, UNKNOWN),
                (None, HOST, UNKNOWN),
                (ClientTls(files(caller, authority.ca)), "localhost", "not accepted: hostname mismatch"),
            ):
                with pytest.raises(TlsError, match=said):
                    await ask(port, tls, host)
        async with serving(outlived(authority.issue("server", expired=True))) as port:
            with pytest.raises(TlsError, match="certificate is not accepted: certificate has expired"):
                await ask(port, ClientTls(files(ca=authority.ca)))
        async with serving(ServerTls(files(authority.issue("elsewhere", host="127.0.0.2"))).listener()) as port:
            with pytest.raises(TlsError, match="certificate is not accepted: ip address mismatch"):
                await ask(port, ClientTls(files(ca=authority.ca)))
        async with serving(None) as port:
            with pytest.raises(TlsError, match="no TLS with it"):
                await ask(port, ClientTls(files(ca=authority.ca)))

    run(story, fast=fast)


def test_nothing_below_tls_1_2_is_spoken(authority: Authority) -> None:
    tls = ServerTls(files(authority.issue("server")))
    old = ssl.create_default_context(cafile=str(authority.ca))
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    assert ClientTls().current().context.minimum_version == ssl.TLSVersion.TLSv1_2

    async def story() -> None:
        async with serving(tls.listener()) as port:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await asyncio.open_connection(HOST, port, ssl=old)
            old.maximum_version = ssl.TLSVersion.TLSv1_2
            (await asyncio.open_connection(HOST, port, ssl=old))[1].close()

    run(story)


async def shown(port: int, ca: Path) -> bytes:
    """The certificate that the server shows."""
    context = ssl.create_default_context(cafile=str(ca))
    _, writer = await asyncio.open_connection(HOST, port, ssl=context)
    found: bytes = writer.get_extra_info("ssl_object").getpeercert(True)
    writer.close()
    return found


def der(pair: Pair) -> bytes:
    return ssl.PEM_cert_to_DER_cert(pair.certificate.read_text())


@pytest.mark.parametrize("fast", [True, False])
def test_a_renewed_certificate_is_shown_without_a_restart(
    authority: Authority, stranger: Authority, at_once: None, fast: bool
) -> None:
    server = authority.issue("server")

    async def story() -> None:
        async with serving(ServerTls(files(server)).listener()) as port:
            first = await shown(port, authority.ca)
            assert first == der(server)
            key = server.key.read_bytes()
            authority.issue("server")
            second, new_key = der(server), server.key.read_bytes()
            # Half of the pair is written: the last good one stays.
            server.key.write_bytes(key)
            assert await shown(port, authority.ca) == first
            server.certificate.unlink()
            assert await shown(port, authority.ca) == first
            server.certificate.write_text(ssl.DER_cert_to_PEM_cert(second))
            server.key.write_bytes(new_key)
            assert await shown(port, authority.ca) == second != first

    run(story, fast=fast)


@pytest.mark.parametrize("options", [{"expired": True}, {"valid_in": 3600.0}])
def test_a_renewed_certificate_out_of_its_time_leaves_the_good_one(
    options: dict[str, Any], authority: Authority, at_once: None, caplog: pytest.LogCaptureFixture
) -> None:
    server, bad = authority.issue("server"), authority.issue("bad", **options)
    tls = ServerTls(files(server))

    async def story() -> None:
        async with serving(tls.listener()) as port:
            first = await shown(port, authority.ca)
            server.certificate.write_bytes(bad.certificate.read_bytes())
            server.key.write_bytes(bad.key.read_bytes())
            for _ in range(3):
                assert await shown(port, authority.ca) == first
            authority.issue("server")
            assert await shown(port, authority.ca) == der(server) != first

    run(story)
    said = [record.message for record in caplog.records if "last good ones stay" in record.message]
    assert len(said) == 1
    assert f"{server.certificate}: the certificate" in said[0]


def test_a_renewed_certificate_counts_once_its_time_has_come(
    authority: Authority, at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The issuer's clock is ahead of ours; the file does not change any more."""
    monkeypatch.setattr("fasttrack.tls._AGAIN_SECONDS", 0.0)
    server = authority.issue("server")
    tls = ServerTls(files(server))
    first = tls.current()
    authority.issue("server", valid_in=2.0)
    assert tls.current() is first
    until(lambda: tls.current() is not first)
    assert tls.current().certificate == server.certificate.read_bytes()


def test_authorities_that_are_taken_out_count_no_more(
    authority: Authority, stranger: Authority, at_once: None, tmp_path: Path
) -> None:
    server, caller, other = authority.issue("server"), authority.issue("caller"), stranger.issue("caller")
    ca = tmp_path / "callers.pem"
    ca.write_bytes(authority.ca.read_bytes())

    async def story() -> None:
        before, after = (ClientTls(files(pair, authority.ca)) for pair in (caller, other))
        async with serving(ServerTls(files(server, ca)).listener()) as port:
            assert await ask(port, before) == b"hi"
            with pytest.raises((BrokenLinkError, TlsError)):
                await ask(port, after)
            ca.write_bytes(stranger.ca.read_bytes())
            assert await ask(port, after) == b"hi"
            with pytest.raises((BrokenLinkError, TlsError)):
                await ask(port, before)

    run(story)


def test_a_client_shows_and_trusts_what_stands_in_its_files_now(
    authority: Authority, stranger: Authority, at_once: None, tmp_path: Path
) -> None:
    """As Kubernetes changes a mounted Secret: a link to the folder of all files is turned."""
    folders = {name: tmp_path / name for name in ("first", "second")}
    for folder, by in zip(folders.values(), (stranger, authority), strict=True):
        folder.mkdir()
        pair = by.issue("caller")
        for source, name in ((by.ca, "ca.crt"), (pair.certificate, "tls.crt"), (pair.key, "tls.key")):
            (folder / name).write_bytes(source.read_bytes())
    data = tmp_path / "data"
    data.symlink_to(folders["first"])
    mine = ClientTls(Files(str(data / "tls.crt"), str(data / "tls.key"), str(data / "ca.crt")))

    async def story() -> None:
        async with serving(ServerTls(files(authority.issue("server"), authority.ca)).listener()) as port:
            with pytest.raises(TlsError):
                await ask(port, mine)
            (tmp_path / "next").symlink_to(folders["second"])
            (tmp_path / "next").replace(data)
            assert await ask(port, mine) == b"hi"

    run(story)


def test_files_are_read_once_while_they_do_not_change(authority: Authority, at_once: None) -> None:
    tls = ServerTls(files(authority.issue("server")))
    assert tls.current() is tls.current()


# ---- Redis


def test_a_redis_by_tls_takes_the_settings_files_unless_it_names_its_own(authority: Authority) -> None:
    pair = authority.issue("caller")
    settings = Settings(tls_ca=str(authority.ca), tls_certificate=str(pair.certificate), tls_key=str(pair.key))
    url = secured("rediss://:p%2Fw@there:1/2?socket_timeout=3", settings)
    tls = trust(url)
    assert tls is not None
    assert (tls.current().ca, tls.current().key) == (authority.ca.read_bytes(), pair.key.read_bytes())
    assert url.startswith("rediss://:p%2Fw@there:1/2?socket_timeout=3&")
    for same in ("redis://there", "unix:///there", "rediss://there?ssl_ca_certs=/other"):
        assert secured(same, settings) == same
    assert secured("rediss://there", Settings()) == "rediss://there"
    assert trust("redis://there?ssl_ca_certs=/gone") is None
    with pytest.raises(ConfigurationError, match=r"/gone: the file can't be read.* Give ssl_ca_certs"):
        trust("rediss://there?ssl_ca_certs=/gone")
