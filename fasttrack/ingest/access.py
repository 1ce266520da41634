"""What every Kafka client of ours is set to, and what its connections say of who it is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from confluent_kafka import KafkaError

from fasttrack.errors import AuthorizationError, ConfigurationError
from fasttrack.ingest.security import security
from fasttrack.settings import PREFIX, Settings

_PORT = 9092

#: Not marked retriable by librdkafka, but over once the broker is back.
PASSING = frozenset(
    {KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._TIMED_OUT, KafkaError._RESOLVE,
     KafkaError.REQUEST_TIMED_OUT, KafkaError.LEADER_NOT_AVAILABLE, KafkaError.NOT_LEADER_FOR_PARTITION,
     KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.COORDINATOR_LOAD_IN_PROGRESS, KafkaError.NOT_CONTROLLER,
     KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.UNKNOWN_TOPIC_ID, KafkaError._WAIT_COORD,
     KafkaError.OFFSET_NOT_AVAILABLE, KafkaError.UNKNOWN_LEADER_EPOCH, KafkaError.FENCED_LEADER_EPOCH,
     KafkaError.KAFKA_STORAGE_ERROR, KafkaError.BROKER_NOT_AVAILABLE, KafkaError.UNKNOWN, KafkaError._UNKNOWN_TOPIC,
     KafkaError._UNKNOWN_PARTITION, KafkaError._UNKNOWN_BROKER, KafkaError._NODE_UPDATE, KafkaError._WAIT_CACHE,
     # What list_offsets says while partitions have no leader.
     KafkaError._NOENT}
)  # fmt: skip

#: There is no right to it.
DENIED = frozenset({KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED,
                    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
                    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED})  # fmt: skip

_REFUSED = frozenset({KafkaError._SSL, KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED,
                      KafkaError.UNSUPPORTED_SASL_MECHANISM})  # fmt: skip
# With TLS 1.3 a broker judges the client's certificate after the client has finished its part of the handshake.
_ALERT = "SSL alert number"
_HANDSHAKE = re.compile("SSL_HANDSHAKE|PLAINTEXT broker listener")


def refusal(error: KafkaError) -> bool:
    """Whether a client's error says that the other side isn't trusted or doesn't trust: waiting won't mend it."""
    return error.code() in _REFUSED or _ALERT in error.str()


def client_settings(bootstrap: str) -> dict[str, Any]:
    """What every Kafka client of FastTrack is set to, beside its security.

    librdkafka logs each refused connection to stderr and waits up to 10 s between attempts; errors are raised (or
    noted) by the callers here instead, and a broker that comes back is found within 0.5 s.
    """
    return {
        "bootstrap.servers": bootstrap,
        "client.id": "fasttrack",
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 500,
        "log_level": 0,
        "topic.metadata.refresh.fast.interval.ms": 100,
        "metadata.max.age.ms": 30_000,
    }


@dataclass
class Access:
    """The way in to one cluster; it notes what the connections of all clients that it makes are told.

    librdkafka takes a refused certificate for one more lost connection and tries for ever; a caller that waits asks
    `require` meanwhile.

    Args:
        bootstrap: ``host:port[,host:port]``.
        security: of `fasttrack.ingest.security.security`.
    """

    bootstrap: str
    security: Mapping[str, Any] = field(default_factory=dict, repr=False)
    _refused: KafkaError | None = field(default=None, init=False, repr=False)
    _heard: KafkaError | None = field(default=None, init=False, repr=False)

    @classmethod
    def at(cls, settings: Settings) -> Access:
        """The way to FastTrack's own cluster; the files are read anew by each call.

        Raises:
            ConfigurationError: its address isn't set, or its security can't be used.
        """
        return cls(settings.require("kafka"), security(f"{PREFIX}KAFKA", settings.to_environment()))

    def client(self) -> dict[str, Any]:
        """A client's settings; the caller adds its own."""
        return {**client_settings(self.bootstrap), **self.security, "error_cb": self._note}

    def _note(self, error: KafkaError) -> None:
        # Called by a client's poll, also in other threads: one assignment needs no lock.
        if refusal(error):
            self._refused = error
        elif error.code() != KafkaError._ALL_BROKERS_DOWN:
            self._heard = error

    def forget(self) -> None:
        """Begin anew: what was noted may be mended."""
        self._refused = self._heard = None

    def require(self) -> None:
        """Make sure that no broker has refused us, nor we one.

        Raises:
            ConfigurationError: one has.
        """
        if self._refused is not None:
            raise self.refusal(self._refused)

    def refusal(self, error: KafkaError) -> ConfigurationError:
        """The error that says that broker and client don't trust each other."""
        mine = self.security.get("ssl.certificate.location") or self.security.get("sasl.username") or "no certificate"
        trusted = self.security.get("ssl.ca.location", "whom the system trusts")
        return ConfigurationError(
            f"the Kafka broker and this client don't trust each other: {error.str()}.", where=self.bootstrap,
            fix=f"The client shows {mine} and trusts {trusted}: check that the broker trusts the one, that the other "
            "is the broker's CA, that neither has expired, and that the port is that of the protocol.",
        )  # fmt: skip

    def denied(self, error: KafkaError) -> AuthorizationError:
        """The error that says that the broker knows us, but gives us no right to something."""
        return AuthorizationError(
            f"Kafka refuses: {error.str()}.", where=self.bootstrap,
            fix="Give the user the right (compiled KafkaUsers have what they need), or come as another user.",
        )  # fmt: skip

    def reason(self, error: object) -> object:
        """Why there was no answer: what a connection said says more than that the time is over."""
        if self._heard is None:
            return error
        said = self._heard.str()
        # A listener without TLS hangs up, with or without librdkafka's guess at the cause.
        guess = "; is this the port of a listener with TLS?" if _HANDSHAKE.search(said) else ""
        return f"{error}; {said}{guess}"

    def servers(self) -> list[tuple[str, int]]:
        """Host and port of each bootstrap server.

        Raises:
            ConfigurationError: one can't be read.
        """
        return [server(text) for text in self.bootstrap.split(",")]


def server(text: str) -> tuple[str, int]:
    """Host and port of one of the bootstrap servers, such as ``PLAINTEXT://kafka:9092`` or ``[::1]:9092``.

    Raises:
        ConfigurationError: it is no address.
    """
    try:
        address = urlsplit("//" + text.strip().rpartition("://")[2])
        if address.hostname:
            return address.hostname, address.port or _PORT
        what = "has no host"
    except ValueError as error:
        what = str(error)
    raise ConfigurationError(
        f"{text!r} is not an address: {what}.", where="FASTTRACK_KAFKA", fix="Give host:port[,host:port]."
    )
