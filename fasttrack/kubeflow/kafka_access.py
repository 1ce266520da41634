"""How a pod comes in to Strimzi's Kafka: by TLS as a KafkaUser, with the Secrets that Strimzi's operators make."""

from __future__ import annotations

from dataclasses import dataclass

from fasttrack.kubeflow import pods
from fasttrack.kubeflow.names import object_name
from fasttrack.kubeflow.pods import Object
from fasttrack.usecase import UseCase

CA_PATH = "/var/run/fasttrack/kafka/ca"
USER_PATH = "/var/run/fasttrack/kafka/user"
#: What `fasttrack.ingest.security` reads.
VARIABLES = {
    "FASTTRACK_KAFKA_PROTOCOL": "SSL",
    "FASTTRACK_KAFKA_CA": f"{CA_PATH}/ca.crt",
    "FASTTRACK_KAFKA_CERTIFICATE": f"{USER_PATH}/user.crt",
    "FASTTRACK_KAFKA_KEY": f"{USER_PATH}/user.key",
}


#: The one gateway takes in the webhooks of all use cases: components/kafka makes its KafkaUser.
GATEWAY_USER = "fasttrack-gateway"


@dataclass(frozen=True)
class KafkaAccess:
    """Who a pod is for Kafka.

    Attributes:
        cluster: name of the Strimzi Kafka.
        user: of the KafkaUser, which its Secret has, too.
    """

    cluster: str
    user: str

    @property
    def secrets(self) -> dict[str, str]:
        """By the path that it is mounted at, the name of a Secret: the brokers' CA, and the user's pair."""
        return {CA_PATH: f"{self.cluster}-cluster-ca-cert", USER_PATH: self.user}

    def env(self) -> list[Object]:
        """The container's variables."""
        return [{"name": name, "value": value} for name, value in VARIABLES.items()]

    def volumes(self) -> list[Object]:
        """The pod's volumes, without Java's stores and their passwords; it waits until Strimzi has made the Secrets."""
        files = {CA_PATH: ("ca.crt",), USER_PATH: ("user.crt", "user.key")}
        return [
            {
                "name": _volume(path),
                "secret": {"secretName": secret, "items": [{"key": key, "path": key} for key in files[path]]},
            }
            for path, secret in self.secrets.items()
        ]

    def mounts(self) -> list[Object]:
        """Where the container sees them."""
        return [pods.mount(_volume(path), path, read_only=True) for path in self.secrets]


def user_name(usecase: UseCase, role: str) -> str:
    """Name of the KafkaUser of a role; short enough for a certificate's, which has at most 64 characters."""
    return object_name(f"{usecase.name}-{role}")


def _volume(path: str) -> str:
    return f"kafka-{path.rpartition('/')[2]}"
