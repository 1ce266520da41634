"""Drain, sources and gateway on a broker that lets nobody in without a certificate, each as its own user."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin._scram import ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion

from api_gateway.deliveries import Deliveries
from fasttrack.errors import AuthorizationError, ConfigurationError, UnavailableError
from fasttrack.ingest.broker import Broker
from fasttrack.ingest.drain import drain
from fasttrack.ingest.publisher import Publisher
from fasttrack.ingest.reconcile import reconcile
from fasttrack.ingest.sources.connect import connect
from fasttrack.ingest.sources.message import Message
from fasttrack.ingest.sources.run import ingest
from fasttrack.kubeflow.kafka_objects import gateway_rights
from fasttrack.local.platform import Platform
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase, load
from tests.integration.certificates import Authority
from tests.integration.kafka_rights import acls_of, allow, make_topics
from tests.integration.source_oracle import ROOT
from tests.integration.source_tables import take
from tests.integration.test_ingest_sources import declare, folder, write
from tests.integration.tls_broker import Secured, secured
from tests.local_homes import new_home
from tests.unit.gateway_harness import gateway
from tests.unit.ingest_usecase import event
from tests.unit.webhook_sender import SECRET, Sender

HOOK = {"kind": "webhook", "stream": "placed", "secret_env": "TEST_HOOK_SECRET"}
OTHERS = {"kind": "stream", "stream": "paid", "connection_env": "OTHERS"}


@pytest.fixture(scope="module")
def broker() -> Iterator[Secured]:
    with new_home() as home, secured(home) as running:
        yield running


@pytest.fixture
def elsewhere() -> str:
    """The name of a topic that isn't the use case's."""
    return f"elsewhere-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def case(broker: Secured, elsewhere: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> UseCase:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("TEST_HOOK_SECRET", SECRET)
    (tmp_path / "in").mkdir()
    made = load(declare(tmp_path, orders=folder(tmp_path / "in"), others={**OTHERS, "topic": elsewhere}, hook=HOOK))
    make_topics(broker.admin, made, elsewhere)
    return made


@pytest.fixture
def settings(platform: Platform, tmp_path: Path) -> Settings:
    return replace(platform.settings(), lake=str(tmp_path / "lake"))


def rights(case: UseCase, elsewhere: str) -> dict[str, list[dict[str, Any]]]:
    """What `fasttrack compile` and components/kafka give, and what another topic's owner does."""
    read = {"resource": {"type": "topic", "name": elsewhere}, "operations": ["Read", "Describe"], "host": "*"}
    write_right = {"resource": {"type": "topic", "name": elsewhere}, "operations": ["Write", "Describe"], "host": "*"}
    idempotent = {"resource": {"type": "cluster"}, "operations": ["IdempotentWrite"], "host": "*"}
    return {
        "User:CN=drain": acls_of(case, "drain"),
        "User:CN=ingest": acls_of(case, "ingest"),
        "User:CN=gateway": [idempotent, *gateway_rights(case)],
        "User:CN=guest": [read],
        "User:CN=owner": [write_right, idempotent],
    }


def test_everyone_does_its_work_as_its_own_user_and_no_others(
    broker: Secured, case: UseCase, elsewhere: str, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allow(broker.admin, rights(case, elsewhere))
    users = ("drain", "ingest", "gateway", "guest", "owner", "nobody")
    be = {name: broker.as_user(settings, broker.authority.issue(name)) for name in users}
    # Another cluster's topic, with a certificate of its owner's giving.
    for name, value in be["guest"].to_environment().items():
        if name.startswith("FASTTRACK_KAFKA"):
            monkeypatch.setenv(name.replace("FASTTRACK_KAFKA", "OTHERS"), value)
    paid = [{"event_id": f"p{n}", "order_id": "o", "paid_at": "2020-01-01T00:00:00Z", "delay": 1} for n in range(9)]
    publish(be["owner"], elsewhere, [json.dumps(each).encode() for each in paid])

    write(tmp_path / "in" / "0.csv", 0, 100)
    assert ingest(case, be["ingest"], until="end").complete
    hooked(case, be["gateway"], tmp_path)
    landed = drain(case, be["drain"], workers=2)
    assert {name: stream.events for name, stream in landed.streams.items()} == {"placed": 105, "paid": 9}
    assert reconcile(case, be["drain"]).balanced

    # Each is refused what another one may: by the broker, by name, and clearly.
    topic = case.topic("placed")
    for name, do in (
        ("ingest", lambda who: drain(case, who)),
        ("drain", lambda who: publish(who, topic, [b"x"])),
        ("gateway", lambda who: drain(case, who)),
        ("gateway", lambda who: publish(who, case.topic("paid"), [b"x"])),
        ("nobody", lambda who: reconcile(case, who)),
        ("nobody", lambda who: ingest(case, who, ["orders"], until="end")),
    ):
        with pytest.raises(AuthorizationError, match=r"Kafka refuses: .*(Topic|Group|Cluster) authorization failed"):
            do(replace(be[name], lake=str(tmp_path / f"lake of {name}")))
    with pytest.raises(UnavailableError):
        asyncio.run(delivered(be["gateway"], case.topic("paid")))
    monkeypatch.setenv("OTHERS_CERTIFICATE", be["nobody"].kafka_certificate)
    monkeypatch.setenv("OTHERS_KEY", be["nobody"].kafka_key)
    reader = connect(case, be["ingest"], "others")
    with pytest.raises(ConfigurationError, match=f"{elsewhere} can't be read"):
        reader.open(None)


def publish(settings: Settings, topic: str, values: list[bytes]) -> None:
    publisher = Publisher(Broker.at(settings))
    publisher.send(topic, [{"value": value, "key": b"k", "partition": 0} for value in values])
    publisher.flush()


def hooked(case: UseCase, settings: Settings, tmp_path: Path) -> None:
    """Five events by the gateway's webhook."""
    file = tmp_path / "usecases" / "shop.yaml"
    file.parent.mkdir()
    file.write_text((tmp_path / "usecase.yaml").read_text())
    with gateway(
        tmp_path, list, usecases=str(file.parent), webhook_seconds=20.0, kafka=settings.kafka,
        schema_registry=settings.schema_registry,
        security={name: value for name, value in vars(settings).items() if name.startswith("kafka_")},
    ) as running:  # fmt: skip
        sender = Sender(running.port, f"/v1/usecases/{case.name}/webhooks/hook")
        for number in range(5):
            assert sender.send(f"hook-{number}", event(1000 + number, order_id="o"))[0] == 202


async def delivered(settings: Settings, topic: str) -> None:
    deliveries = Deliveries(settings)
    try:
        await deliveries.send(topic, [Message(b"x", b"k", 0, b"hook:1")])
    finally:
        await deliveries.close(1.0)


@pytest.fixture(params=["another CA", "expired", "another CA's", "no certificate"])
def refused(
    request: pytest.FixtureRequest, broker: Secured, settings: Settings, tmp_path: Path
) -> tuple[Settings, str]:
    """Settings that can't work, and what the error says of them."""
    other, mine = Authority(tmp_path / "other"), broker.as_user(settings, broker.authority.issue("drain"))
    if request.param == "another CA":
        return replace(mine, kafka_ca=str(other.ca)), "don't trust each other: .*certificate verify failed"
    if request.param == "expired":
        return broker.as_user(
            settings, broker.authority.issue("drain", expired=True)
        ), "drain-expired.crt: the certificate has expired"
    if request.param == "another CA's":
        return broker.as_user(settings, other.issue("drain")), "don't trust each other: .*alert"
    return replace(mine, kafka_certificate="", kafka_key=""), "don't trust each other: .*alert"


def test_who_is_not_trusted_is_told_so_at_once(
    refused: tuple[Settings, str], case: UseCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, words = refused
    # Far longer than the test may take: nobody waits for what waiting won't mend.
    monkeypatch.setattr("fasttrack.ingest.broker.PATIENCE_SECONDS", 3600.0)
    for do in (
        lambda: drain(case, settings),
        lambda: ingest(case, settings, ["orders"], until="forever"),
        lambda: reconcile(case, settings),
        lambda: publish(settings, case.topic("placed"), [b"x"]),
    ):
        with pytest.raises(ConfigurationError, match=words):
            do()
    with pytest.raises((UnavailableError, ConfigurationError)):
        asyncio.run(twice(settings, case.topic("placed")))


async def twice(settings: Settings, topic: str) -> None:
    """The first call waits until the connection is refused, the next one needn't."""
    deliveries = Deliveries(settings)
    try:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(deliveries.send(topic, [Message(b"x", b"k", 0, b"hook:1")]), 3.0)
        await deliveries.send(topic, [Message(b"x", b"k", 0, b"hook:2")])
    finally:
        await deliveries.close(0.0)


def test_a_broker_of_another_protocol_is_told_apart(broker: Secured, platform: Platform, settings: Settings) -> None:
    mine = broker.as_user(settings, broker.authority.issue("drain"))
    plain = replace(mine, kafka=platform.settings().kafka)
    with pytest.raises(UnavailableError, match=r"is this the port of a listener with TLS\?"):
        Broker.at(plain, patience=1.0).cluster_id()


def test_a_password_does_as_well_and_a_wrong_one_is_told_at_once(
    broker: Secured, settings: Settings, case: UseCase, tmp_path: Path
) -> None:
    password = tmp_path / "password"
    password.write_text("of the drain\n")
    change = UserScramCredentialUpsertion(
        "by-password", ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096), b"of the drain"
    )
    broker.admin.alter_user_scram_credentials([change])["by-password"].result(30)
    allow(broker.admin, {"User:by-password": acls_of(case, "drain")})
    mine = replace(
        settings, kafka=broker.by_password, kafka_protocol="SASL_SSL", kafka_ca=str(broker.authority.ca),
        kafka_user="by-password", kafka_password=str(password),
    )  # fmt: skip
    assert drain(case, mine, workers=1).complete
    password.write_text("another")
    with pytest.raises(ConfigurationError, match=r"don't trust each other: .*[Aa]uthentication failed"):
        Broker.at(mine, patience=3600.0).cluster_id()


def test_the_command_says_it_in_one_line(broker: Secured, settings: Settings, case: UseCase, tmp_path: Path) -> None:
    wrong = replace(
        broker.as_user(settings, broker.authority.issue("drain")), kafka_ca=str(Authority(tmp_path / "other").ca)
    )
    command = [sys.executable, "-m", "fasttrack", "drain", "--usecase", str(tmp_path / "usecase.yaml")]
    environ = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path), **wrong.to_environment()}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == ConfigurationError.exit_code, done.stderr
    assert "don't trust each other" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_source_takes_what_another_cluster_asks_for(
    broker: Secured, case: UseCase, elsewhere: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    allow(broker.admin, rights(case, elsewhere))
    publish(broker.as_user(settings, broker.authority.issue("owner")), elsewhere, [b"{}"] * 3)
    guest = broker.as_user(settings, broker.authority.issue("guest"))
    environment = {"OTHERS": broker.bootstrap, "OTHERS_PROTOCOL": "SSL", "OTHERS_CA": guest.kafka_ca}
    environment |= {"OTHERS_CERTIFICATE": guest.kafka_certificate, "OTHERS_KEY": guest.kafka_key}
    reader = connect(case, settings, "others", environment)
    reader.open(None)
    assert len(take(reader, lambda got: len(got) >= 3)) >= 3
    reader.close()
    with pytest.raises(ConfigurationError, match="OTHERS_KEY"):
        connect(case, settings, "others", environment | {"OTHERS_KEY": "/nowhere/user.key"})
