"""Compiled rights and topics on a real broker, as Strimzi's operators would bring them there."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)

from fasttrack.kubeflow.kafka_objects import kafka_topics, kafka_users
from fasttrack.usecase import UseCase

KINDS = {
    "topic": ResourceType.TOPIC,
    "group": ResourceType.GROUP,
    "cluster": ResourceType.BROKER,
    "transactionalId": ResourceType.TRANSACTIONAL_ID,
}
PATTERNS = {"literal": ResourcePatternType.LITERAL, "prefix": ResourcePatternType.PREFIXED}
EVERY = AclBindingFilter(
    ResourceType.ANY, None, ResourcePatternType.ANY, None, None, AclOperation.ANY, AclPermissionType.ANY
)


def allow(admin: AdminClient, rights: Mapping[str, Sequence[dict[str, Any]]]) -> None:
    """Take all rights away, then give these by principal (``User:CN=name``), as Strimzi's user operator would."""
    for future in admin.delete_acls([EVERY]).values():
        future.result(30)
    made = []
    for principal, acl in ((who, acl) for who, acls in rights.items() for acl in acls):
        resource = acl["resource"]
        kind, pattern = KINDS[resource["type"]], PATTERNS[resource.get("patternType", "literal")]
        for operation in acl["operations"]:
            word = AclOperation[re.sub(r"(?<=[a-z])(?=[A-Z])", "_", operation).upper()]
            of = resource.get("name", "kafka-cluster")
            made.append(AclBinding(kind, of, pattern, principal, acl["host"], word, AclPermissionType.ALLOW))
    for future in admin.create_acls(made).values() if made else ():
        future.result(30)
    # The broker learns of them a moment after the controller has them.
    deadline = time.monotonic() + 30
    while set(admin.describe_acls(EVERY).result(30)) != set(made):
        assert time.monotonic() < deadline, "the rights didn't come into force"
        time.sleep(0.05)


def acls_of(usecase: UseCase, role: str) -> list[dict[str, Any]]:
    (user,) = (
        user for user in kafka_users(usecase, namespace="n", cluster="c") if user["metadata"]["name"].endswith(role)
    )
    acls: list[dict[str, Any]] = user["spec"]["authorization"]["acls"]
    return acls


def make_topics(admin: AdminClient, usecase: UseCase, other: str) -> None:
    """The topics, and another one, as Strimzi's topic operator would: no user has the right."""
    specs = [each["spec"] for each in kafka_topics(usecase, namespace="n", cluster="c", replicas=1)]
    made = [
        NewTopic(spec["topicName"], spec["partitions"], 1, config={k: str(v) for k, v in spec["config"].items()})
        for spec in specs
    ]
    for future in admin.create_topics([*made, NewTopic(other, 1, 1)]).values():
        future.result(30)
