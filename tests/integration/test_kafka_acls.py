"""The rights of the compiled KafkaUsers are enough: ingester and drain against a broker that denies all else."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer, TopicCollection
from confluent_kafka.admin import AdminClient

from fasttrack.errors import AuthorizationError
from fasttrack.ingest.broker import Broker
from fasttrack.ingest.deadletters import replayed
from fasttrack.ingest.drain import drain
from fasttrack.ingest.outbox import Outgoing, opened
from fasttrack.ingest.reconcile import reconcile
from fasttrack.ingest.sources.connect import connect
from fasttrack.ingest.sources.run import ingest
from fasttrack.local import kafka
from fasttrack.local.part import HOST
from fasttrack.local.platform import Platform
from fasttrack.local.ports import Ports
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase, load
from tests.integration.broker_process import answering
from tests.integration.kafka_rights import acls_of, allow, make_topics
from tests.integration.source_oracle import ROOT
from tests.integration.source_tables import take
from tests.integration.test_ingest_sources import declare, folder, write
from tests.local_homes import new_home

# Clients don't say who they are: the ACLs of a KafkaUser are given to whoever that is.
PRINCIPAL = "User:ANONYMOUS"
LOGIN = "org.apache.kafka.common.security.plain.PlainLoginModule required"
SECURED = """\
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:admin
sasl.enabled.mechanisms=PLAIN
sasl.mechanism.inter.broker.protocol=PLAIN
sasl.mechanism.controller.protocol=PLAIN
listener.name.admin.plain.sasl.jaas.config={login}
listener.name.controller.plain.sasl.jaas.config={login}
"""


@contextmanager
def secured(home: Path) -> Iterator[tuple[str, AdminClient]]:
    """A broker that allows what an ACL says and nothing else; its address, and its administrator."""
    ports = Ports({})
    clients, admin, controller = (ports.choose(name) for name in ("acl_clients", "acl_admin", "acl_controller"))
    part = kafka.prepare(home / "kafka", clients, controller)
    secret = uuid.uuid4().hex
    login = f'{LOGIN} username="admin" password="{secret}" user_admin="{secret}";'
    both = f"PLAINTEXT://{HOST}:{clients},ADMIN://{HOST}:{admin}"
    changed = {
        "listeners": f"{both},CONTROLLER://{HOST}:{controller}",
        "advertised.listeners": both,
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,ADMIN:SASL_PLAINTEXT,CONTROLLER:SASL_PLAINTEXT",
        "inter.broker.listener.name": "ADMIN",
    }
    sasl = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN", "sasl.username": "admin"}
    client = AdminClient({"bootstrap.servers": f"{HOST}:{admin}", "sasl.password": secret, "log_level": 0, **sasl})
    with answering(part, changed, SECURED.format(login=login), client):
        yield f"{HOST}:{clients}", client


def denied(bootstrap: str, topic: str) -> bool:
    client = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    try:
        client.describe_topics(TopicCollection([topic]))[topic].result(30)
    except KafkaException as error:
        return bool(error.args[0].code() == KafkaError.TOPIC_AUTHORIZATION_FAILED)
    return False


def rights_of_replays(usecase: UseCase) -> list[dict[str, Any]]:
    """What docs/how-to/dead-letters.md says that a replay of dead letters needs."""
    rights = {
        ("topic", f"{usecase.name}.deadletters", "literal"): ["Create", "Write", "Read", "Describe"],
        ("topic", usecase.topic("placed"), "literal"): ["Write", "Describe"],
        ("group", "fasttrack-", "prefix"): ["Describe"],
        ("transactionalId", f"{usecase.name}.deadletters.", "prefix"): ["Write", "Describe"],
    }
    return [
        {"resource": {"type": kind, "name": name, "patternType": how}, "operations": operations, "host": "*"}
        for (kind, name, how), operations in rights.items()
    ]


def replay_one(usecase: UseCase, settings: Settings) -> None:
    """Send one dead letter; one that an earlier call began is finished."""
    broker = Broker(settings.require("kafka"))
    topic = broker.require([usecase.topic("placed")])[usecase.topic("placed")]
    letter = Outgoing("placed", topic.name, topic.id, 0, 0, "", 0, None, b"k", b"v", True, None)
    with opened(usecase, settings, broker, {"placed": topic}) as outbox:
        if not outbox.resume():
            outbox.send([letter])
        outbox.appear()
    assert replayed(usecase, settings)["sent_offset"].to_pylist() == [
        broker.offsets({"": topic})[topic.name, 0].latest - 2
    ]


def test_the_compiled_rights_are_enough_to_ingest_and_to_drain(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    other = {"kind": "stream", "stream": "paid", "connection_env": "OTHERS", "topic": "elsewhere"}
    usecase = load(declare(tmp_path, orders=folder(tmp_path / "in"), others=other))
    with new_home() as home, secured(home) as (bootstrap, admin):
        settings = replace(platform.settings(), kafka=bootstrap, lake=str(tmp_path / "lake"))
        monkeypatch.setenv("OTHERS", bootstrap)
        make_topics(admin, usecase, "elsewhere")
        allow(admin, {PRINCIPAL: []})
        assert denied(bootstrap, usecase.topic("placed")), "a right that nobody gave: this test would show nothing"

        paid = [{"event_id": f"p{n}", "order_id": "o", "paid_at": "2020-01-01T00:00:00Z", "delay": 1} for n in range(9)]
        theirs = {"type": "topic", "name": "elsewhere"}
        write_right = {"resource": theirs, "operations": ["Write", "Describe"], "host": "*"}
        allow(admin, {PRINCIPAL: [write_right]})
        errors: list[Any] = []
        refused = {"on_delivery": lambda error, _: errors.append(error), "delivery.report.only.error": True}
        producer = Producer({"bootstrap.servers": bootstrap, "log_level": 0, **refused})
        for each in paid:
            producer.produce("elsewhere", json.dumps(each).encode())
        assert (producer.flush(30), errors) == (0, [])

        # The other topic's owner gives the right to read it, and none to a group.
        read_right = {"resource": theirs, "operations": ["Read", "Describe"], "host": "*"}
        allow(admin, {PRINCIPAL: [read_right]})
        reader = connect(usecase, settings, "others")
        reader.open(None)
        # Longer than the client looks for the group's coordinator.
        assert len(take(reader, lambda got: len(got) == len(paid))) == len(paid)
        assert reader.read(2.0) is None
        reader.close()

        allow(admin, {PRINCIPAL: [*acls_of(usecase, "ingest"), read_right]})
        for number in range(2):
            # The second time it finds out what the first one sent.
            write(tmp_path / "in" / f"{number}.csv", number * 100, 100)
            report = ingest(usecase, settings, until="end")
            assert report.complete
            assert report.sources["orders"].sent == 100
        assert denied(bootstrap, "not-ours")

        allow(admin, {PRINCIPAL: acls_of(usecase, "drain")})
        landed = drain(usecase, settings)
        assert landed.complete
        assert {name: stream.events for name, stream in landed.streams.items()} == {"placed": 200, "paid": 9}
        assert reconcile(usecase, settings).balanced

        replaying = rights_of_replays(usecase)
        allow(admin, {PRINCIPAL: [each for each in replaying if each["resource"]["type"] != "transactionalId"]})
        with pytest.raises(AuthorizationError, match="Transactional"):
            replay_one(usecase, settings)
        allow(admin, {PRINCIPAL: replaying})
        replay_one(usecase, settings)
