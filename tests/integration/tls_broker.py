"""A Kafka broker as Strimzi's listener `tls` is: a client certificate is required, and ACLs bind its name."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from fasttrack.local import kafka
from fasttrack.local.part import HOST
from fasttrack.local.ports import Ports
from fasttrack.settings import Settings
from tests.integration.certificates import Authority, Pair

_SECURED = """\
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:CN=broker;User:CN=admin
ssl.client.auth=required
ssl.keystore.type=PEM
ssl.keystore.location={keystore}
ssl.truststore.type=PEM
ssl.truststore.location={truststore}
listener.name.password.sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.password.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
"""


@dataclass(frozen=True)
class Secured:
    """The running broker.

    Attributes:
        bootstrap: its listener for who has a certificate.
        by_password: its listener for who has a password (SCRAM-SHA-512).
        authority: whom it trusts.
        admin: its superuser.
    """

    bootstrap: str
    by_password: str
    authority: Authority
    admin: AdminClient

    def as_user(self, settings: Settings, pair: Pair) -> Settings:
        """`settings` for this broker, with a user's certificate."""
        return replace(
            settings, kafka=self.bootstrap, kafka_protocol="SSL", kafka_ca=str(self.authority.ca),
            kafka_certificate=str(pair.certificate), kafka_key=str(pair.key),
        )  # fmt: skip


@contextmanager
def secured(home: Path) -> Iterator[Secured]:
    """A broker in `home`: nobody comes in without certificate or password, nor does more than an ACL allows."""
    authority, ports = Authority(home / "authority"), Ports({})
    server, client = authority.issue("broker"), authority.issue("admin")
    keystore = home / "broker.pem"
    keystore.write_bytes(server.key.read_bytes() + server.certificate.read_bytes())
    clients, password, controller = (ports.choose(f"tls_{name}") for name in ("clients", "password", "controller"))
    part = kafka.prepare(home / "kafka", clients, controller)
    properties = Path(part.argv[-1])
    changed = {
        "listeners": f"SSL://{HOST}:{clients},PASSWORD://{HOST}:{password},CONTROLLER://{HOST}:{controller}",
        "advertised.listeners": f"SSL://{HOST}:{clients},PASSWORD://{HOST}:{password}",
        "listener.security.protocol.map": "SSL:SSL,PASSWORD:SASL_SSL,CONTROLLER:SSL",
        "inter.broker.listener.name": "SSL",
    }
    text = properties.read_text()
    for name, value in changed.items():
        text, found = re.subn(rf"(?m)^{re.escape(name)}=.*$", f"{name}={value}", text)
        assert found == 1
    properties.write_text(text + _SECURED.format(keystore=keystore, truststore=authority.ca))
    admin = AdminClient(
        {"bootstrap.servers": f"{HOST}:{clients}", "security.protocol": "SSL", "log_level": 0,
         "ssl.ca.location": str(authority.ca), "ssl.certificate.location": str(client.certificate),
         "ssl.key.location": str(client.key)}
    )  # fmt: skip
    with (home / "kafka.log").open("wb") as log, subprocess.Popen(part.argv, stdout=log, stderr=log) as process:
        try:
            await_answer(admin, process, home / "kafka.log")
            yield Secured(f"{HOST}:{clients}", f"{HOST}:{password}", authority, admin)
        finally:
            process.send_signal(signal.SIGTERM)


def await_answer(client: AdminClient, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a broker that has just been started answers."""
    deadline = time.monotonic() + 120
    while True:
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            if client.list_topics(timeout=2).brokers:
                return
        except KafkaException:
            assert time.monotonic() < deadline, log.read_text()[-2000:]
