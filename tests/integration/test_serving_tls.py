"""Gateway, transformer and predictor with mutual TLS on each hop: who is let in, and certificates that are renewed."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import numpy as np
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

from fasttrack.errors import ConflictError, FastTrackError, UnavailableError
from fasttrack.pem import Files
from fasttrack.serving import upstream
from fasttrack.serving.tensors import Tensor
from fasttrack.serving.trace import RequestContext, enter
from fasttrack.tls import ClientTls
from tests.integration.certificates import Authority, Pair
from tests.integration.serving_package import Built, build, raw_row
from tests.integration.serving_processes import NAME, Running, refused, started, wait_ready
from tests.loopback import HOST
from tests.unit.gateway_harness import Running as Gateway
from tests.unit.gateway_harness import deployment, gateway, until

PROTOCOLS = ("v2", "grpc-v2")
#: Longer than a server may take to look at its files again.
SECONDS = 20.0


@dataclass
class Chain:
    """A predictor, and a transformer for each protocol to it; all demand certificates of the authority."""

    built: Built
    authority: Authority
    stranger: Authority
    predictor: Running
    predictor_pair: Pair
    caller: Pair
    transformers: dict[str, Running]

    def port(self, protocol: str) -> int:
        """Of the predictor."""
        return self.predictor.http if protocol == "v2" else self.predictor.grpc


def serves(pair: Pair, authority: Authority) -> list[str]:
    """The flags of a server."""
    return [
        "--tls_certificate", str(pair.certificate), "--tls_key", str(pair.key), "--tls_client_ca", str(authority.ca),
    ]  # fmt: skip


def trusting(ca: Path, pair: Pair | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(ca))
    if pair is not None:
        context.load_cert_chain(pair.certificate, pair.key)
    return context


def client(ca: Path, pair: Pair | None) -> dict[str, str]:
    """The settings of a client."""
    mine = {"tls_certificate": str(pair.certificate), "tls_key": str(pair.key)} if pair else {}
    return {"tls_ca": str(ca), **mine}


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    folder = tmp_path_factory.mktemp("chain")
    built, authority = build(folder / "package"), Authority(folder / "authority")
    caller, pair = authority.issue("gateway"), authority.issue("predictor")
    trusted = trusting(authority.ca, caller)
    key = {"FASTTRACK_VERIFY_KEY": str(built.verify_key)}
    with ExitStack() as stack:
        predictor = stack.enter_context(
            started("predictor", built.path, key, folder, *serves(pair, authority), trusted=trusted)
        )
        transformers = {}
        for protocol, port in zip(PROTOCOLS, (predictor.http, predictor.grpc), strict=True):
            own = authority.issue(f"transformer-{protocol}")
            settings = {f"FASTTRACK_{name.upper()}": path for name, path in client(authority.ca, own).items()}
            flags = [*serves(own, authority), "--predictor_use_ssl", "true", "--predictor_protocol", protocol]
            flags += ["--predictor_host", f"{HOST}:{port}"]
            transformers[protocol] = stack.enter_context(
                started("transformer", built.path, {**key, **settings}, folder, *flags, trusted=trusted)
            )
        for server in (predictor, *transformers.values()):
            wait_ready(server)
        yield Chain(built, authority, Authority(folder / "stranger"), predictor, pair, caller, transformers)


@contextmanager
def before(chain: Chain, protocol: str, folder: Path, security: dict[str, str]) -> Iterator[Gateway]:
    """A gateway with these settings before one of the transformers."""
    server = chain.transformers[protocol]
    signature = json.loads((chain.built.path / "signature.json").read_bytes())
    known = replace(deployment(server.url, server.url), signature=signature, digest=chain.built.digest)
    with gateway(folder, lambda: [known], security=security) as running:
        yield running


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_prediction_passes_by_mutual_tls_on_each_hop(chain: Chain, protocol: str, tmp_path: Path) -> None:
    with before(chain, protocol, tmp_path, client(chain.authority.ca, chain.caller)) as running:
        token = running.issuer.token("flights-integrator")
        assert running.ask("GET", f"/v2/models/{NAME}/ready", token=token).status == 200
        answer = running.predict({"features": raw_row(chain.built, 0)})
    assert answer.status == 200, answer.body
    found = answer.json()
    assert found["model"]["digest"] == chain.built.digest
    assert 0 <= found["prediction"]["probability"] <= 1


def test_a_gateway_without_the_right_certificates_gets_no_answer(
    chain: Chain, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for number, (ca, pair, said) in enumerate(
        (
            (chain.authority.ca, None, "does not accept our certificate"),
            (chain.authority.ca, chain.stranger.issue("gateway"), "does not accept our certificate"),
            (chain.stranger.ca, chain.caller, "its certificate is not accepted"),
        )
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        with before(chain, "v2", folder, client(ca, pair)) as running:
            answer = running.predict({"features": raw_row(chain.built, 0)})
        assert answer.status == 503
        # The cause is the operators' to read.
        assert "certificate" not in answer.json()["detail"]
        assert said in "".join(capfd.readouterr())


@pytest.fixture(params=["nobody", "another authority's", "expired", "plain text", "TLS 1.1"])
def unwelcome(request: pytest.FixtureRequest, chain: Chain) -> tuple[str, Pair | None]:
    pairs = {
        "another authority's": lambda: chain.stranger.issue("gateway"),
        "expired": lambda: chain.authority.issue("gateway", expired=True),
        "TLS 1.1": lambda: chain.caller,
    }
    return request.param, pairs.get(request.param, lambda: None)()


def test_rest_lets_no_stranger_in(chain: Chain, unwelcome: tuple[str, Pair | None]) -> None:
    who, pair = unwelcome
    context = trusting(chain.authority.ca, pair)
    if who == "TLS 1.1":
        too_old(context)
    url = chain.predictor.url.replace("https", "http") if who == "plain text" else chain.predictor.url
    for server_path in ("/v2/health/live", f"/v2/models/{NAME}/ready", "/metrics"):
        with pytest.raises((OSError, ConnectionError)) as caught:
            urllib.request.urlopen(url + server_path, timeout=20, context=context)
        assert not isinstance(caught.value, urllib.error.HTTPError), "it has answered"


def test_grpc_lets_no_stranger_in(chain: Chain, unwelcome: tuple[str, Pair | None]) -> None:
    who, pair = unwelcome
    address = f"{HOST}:{chain.predictor.grpc}"
    if who == "TLS 1.1":
        context = trusting(chain.authority.ca, pair)
        with socket.create_connection((HOST, chain.predictor.grpc), timeout=20) as plain, pytest.raises(OSError):
            too_old(context).wrap_socket(plain, server_hostname=HOST)
        return
    mine = (pair.key.read_bytes(), pair.certificate.read_bytes()) if pair else (None, None)
    credentials = grpc.ssl_channel_credentials(chain.authority.ca.read_bytes(), *mine)
    plain_text = who == "plain text"
    with grpc.insecure_channel(address) if plain_text else grpc.secure_channel(address, credentials) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            GRPCInferenceServiceStub(channel).ServerLive(pb.ServerLiveRequest(), timeout=20)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def too_old(context: ssl.SSLContext) -> ssl.SSLContext:
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    return context


def asked(protocol: str, host: str, tls: ClientTls | None) -> None:
    """A request of the transformer's client that the predictor understands and refuses."""

    async def story() -> None:
        enter(RequestContext.read({}))
        made = upstream.connect(protocol, host, NAME, 20.0, tls)
        try:
            await made.infer({"x": Tensor("x", "FP32", np.zeros((1, 1), np.float32))}, "1", {"digest": "sha256:other"})
        finally:
            await made.close()

    asyncio.run(story())


def by(ca: Path, pair: Pair | None) -> ClientTls:
    settings = client(ca, pair)
    return ClientTls(Files(settings.get("tls_certificate", ""), settings.get("tls_key", ""), settings["tls_ca"]))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_transformers_client_says_whose_certificate_it_is(chain: Chain, protocol: str) -> None:
    port, ours, other = chain.port(protocol), chain.authority, chain.stranger
    for host, tls, said in (
        (HOST, by(other.ca, chain.caller), "predictor is not trusted: its certificate is not accepted"),
        ("localhost", by(ours.ca, chain.caller), "predictor is not trusted: its certificate is not accepted"),
        (HOST, by(ours.ca, None), "predictor failed"),
        (HOST, by(ours.ca, other.issue("gateway")), "predictor failed"),
        (HOST, None, "predictor failed"),
    ):
        with pytest.raises(UnavailableError, match=said) as caught:
            asked(protocol, f"{host}:{port}", tls)
        assert f"{host}:{port}" in str(caught.value)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_a_predictor_without_tls_says_is_not_taken_for_a_certificates_fault(protocol: str) -> None:
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]

        async def story() -> None:
            async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await reader.read(1)
                writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                writer.close()

            server = await asyncio.start_server(say, sock=listener)
            try:
                await asyncio.to_thread(asked, protocol, f"{HOST}:{port}", ClientTls())
            finally:
                server.close()

        with pytest.raises(UnavailableError, match="predictor is not trusted: no TLS with it"):
            asyncio.run(story())


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_renewed_files_count_without_a_restart(chain: Chain, protocol: str) -> None:
    """The predictor's certificate, which becomes old, bad and good again under a running server."""
    host, mine = f"{HOST}:{chain.port(protocol)}", by(chain.authority.ca, chain.caller)

    def says(kind: type[FastTrackError], words: str) -> Callable[[], bool]:
        def found() -> bool:
            time.sleep(0.1)
            with pytest.raises(FastTrackError) as caught:
                asked(protocol, host, mine)
            return type(caught.value) is kind and words in str(caught.value)

        return found

    good = chain.predictor_pair.certificate.read_bytes(), chain.predictor_pair.key.read_bytes()
    let_in = says(ConflictError, "package")  # another one's digest, which it refuses when it has let us in
    until(let_in, SECONDS)
    old, other = chain.authority.issue("predictor", expired=True), chain.stranger.issue("predictor")
    replaced(chain.predictor_pair, old.certificate.read_bytes(), old.key.read_bytes())
    end = time.monotonic() + 3.0  # longer than files go without a look
    while time.monotonic() < end:
        assert let_in()
    replaced(chain.predictor_pair, other.certificate.read_bytes(), other.key.read_bytes())
    until(says(UnavailableError, "its certificate is not accepted"), SECONDS)
    replaced(chain.predictor_pair, *good)
    until(let_in, SECONDS)


def replaced(pair: Pair, certificate: bytes, key: bytes) -> None:
    pair.certificate.write_bytes(certificate)
    pair.key.write_bytes(key)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_client_whose_certificate_was_renewed_comes_in_with_it(
    chain: Chain, protocol: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One client, which is never made anew: first with a certificate of another authority."""
    monkeypatch.setattr("fasttrack.tls._LOOK_SECONDS", 0.0)
    mine = Pair(tmp_path / "tls.crt", tmp_path / "tls.key")
    host, inputs = f"{HOST}:{chain.port(protocol)}", {"x": Tensor("x", "FP32", np.zeros((1, 1), np.float32))}
    pairs = [chain.stranger.issue("gateway"), chain.caller]
    replaced(mine, pairs[0].certificate.read_bytes(), pairs[0].key.read_bytes())

    async def story() -> None:
        enter(RequestContext.read({}))
        made = upstream.connect(protocol, host, NAME, 20.0, by(chain.authority.ca, mine))
        with pytest.raises(UnavailableError):
            await made.infer(inputs, "1", {})
        replaced(mine, pairs[1].certificate.read_bytes(), pairs[1].key.read_bytes())
        with pytest.raises(ConflictError):
            await made.infer(inputs, "1", {"digest": "sha256:other"})
        await made.close()

    asyncio.run(story())


def test_wrong_flags_are_told_in_one_line_before_a_port_is_opened(chain: Chain, tmp_path: Path) -> None:
    key = {"FASTTRACK_VERIFY_KEY": str(chain.built.verify_key)}
    pair, other = chain.authority.issue("one"), chain.authority.issue("two")
    old = chain.authority.issue("old", expired=True)
    for flags, said in (
        (["--tls_certificate", str(pair.certificate), "--tls_key", str(other.key)], "key values mismatch"),
        (["--tls_client_ca", str(chain.authority.ca)], "--tls_client_ca is given without --tls_certificate"),
        (["--tls_certificate", str(old.certificate), "--tls_key", str(old.key)], "the certificate has expired"),
        (["--tls_certificate", str(tmp_path / "gone.crt")], "Give --tls_certificate a PEM file"),
    ):
        code, printed = refused("predictor", chain.built.path, key, *flags)
        assert code == 2
        assert said in printed
        assert printed.count("\n") == 1
    wrong = {**key, "FASTTRACK_TLS_CA": str(tmp_path / "gone.crt")}
    hop = ("--predictor_host", f"{HOST}:1", "--predictor_use_ssl", "true")
    code, printed = refused("transformer", chain.built.path, wrong, *hop)
    assert code == 2
    assert "Give FASTTRACK_TLS_CA a PEM file" in printed
    assert printed.count("\n") == 1
