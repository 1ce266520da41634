"""A Kafka broker as Strimzi's listener `tls` is: a client certificate is required, and ACLs bind its name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from confluent_kafka.admin import AdminClient

from fasttrack.local import kafka
from fasttrack.local.part import HOST
from fasttrack.local.ports import Ports
from fasttrack.settings import Settings
from tests.integration.broker_process import answering
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
    changed = {
        "listeners": f"SSL://{HOST}:{clients},PASSWORD://{HOST}:{password},CONTROLLER://{HOST}:{controller}",
        "advertised.listeners": f"SSL://{HOST}:{clients},PASSWORD://{HOST}:{password}",
        "listener.security.protocol.map": "SSL:SSL,PASSWORD:SASL_SSL,CONTROLLER:SSL",
        "inter.broker.listener.name": "SSL",
    }
    admin = AdminClient(
        {"bootstrap.servers": f"{HOST}:{clients}", "security.protocol": "SSL", "log_level": 0,
         "ssl.ca.location": str(authority.ca), "ssl.certificate.location": str(client.certificate),
         "ssl.key.location": str(client.key)}
    )  # fmt: skip
    more = _SECURED.format(keystore=keystore, truststore=authority.ca)
    with answering(part, changed, more, admin):
        yield Secured(f"{HOST}:{clients}", f"{HOST}:{password}", authority, admin)
