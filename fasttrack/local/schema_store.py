"""What the schema registry knows, kept in a compacted Kafka topic in the form of Confluent's ``_schemas``."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from fasttrack.errors import UnavailableError

TOPIC = "_schemas"
_TIMEOUT_SECONDS = 20.0


@dataclass
class Version:
    """One version of a subject."""

    subject: str
    version: int
    id: int
    kind: str
    text: str
    references: list[dict[str, Any]]
    deleted: bool = False

    def to_json(self) -> dict[str, Any]:
        """As Confluent's API writes it: the type is left out for Avro."""
        found: dict[str, Any] = {"subject": self.subject, "version": self.version, "id": self.id, "schema": self.text}
        if self.kind != "AVRO":
            found["schemaType"] = self.kind
        return found | ({"references": self.references} if self.references else {})


class SchemaStore:
    """The registry's state in memory; each change is acknowledged by the broker before it is seen.

    Args:
        bootstrap: the broker's address.
    """

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap: dict[str, str | int | float | bool] = {
            "bootstrap.servers": bootstrap,
            "reconnect.backoff.max.ms": 100,
            "log_level": 3,
        }
        self._producer = Producer({**self._bootstrap, "enable.idempotence": True, "linger.ms": 0})
        self.lock = threading.RLock()
        self.subjects: dict[str, dict[int, Version]] = {}
        self.levels: dict[str | None, str] = {}
        self._highest_id = 0

    def load(self) -> None:
        """Make the topic the first time and read it from the start.

        Raises:
            UnavailableError: the broker doesn't answer.
        """
        try:
            self._make_topic()
            self._read_all()
        except KafkaException as error:
            raise UnavailableError(
                f"the broker doesn't serve {TOPIC}: {error.args[0]}.",
                where=str(self._bootstrap["bootstrap.servers"]),
                fix="See whether Kafka runs: `fasttrack status`.",
            ) from error

    def _make_topic(self) -> None:
        admin = AdminClient(self._bootstrap)
        topic = NewTopic(TOPIC, num_partitions=1, replication_factor=1, config={"cleanup.policy": "compact"})
        try:
            admin.create_topics([topic])[TOPIC].result(_TIMEOUT_SECONDS)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise

    def _read_all(self) -> None:
        # The end is what the broker says it is: in a compacted topic the last offset need not be a message.
        options = {"group.id": "schema-registry", "enable.auto.commit": False, "enable.partition.eof": True}
        consumer = Consumer({**self._bootstrap, **options})
        try:
            consumer.assign([TopicPartition(TOPIC, 0, 0)])
            while True:
                message = consumer.poll(_TIMEOUT_SECONDS)
                if message is None:
                    raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
                failure = message.error()
                if failure is None:
                    self._apply(json.loads(message.key() or b"{}"), json.loads(message.value() or b"null"))
                elif failure.code() == KafkaError._PARTITION_EOF:
                    return
                else:
                    raise KafkaException(failure)
        finally:
            consumer.close()

    def _apply(self, key: dict[str, Any], value: dict[str, Any] | None) -> None:
        subject = key.get("subject")
        if key.get("keytype") == "CONFIG":
            if value is None:
                self.levels.pop(subject, None)
            else:
                self.levels[subject] = value["compatibilityLevel"]
        elif key.get("keytype") == "SCHEMA" and subject is not None:
            versions = self.subjects.setdefault(subject, {})
            if value is None:
                versions.pop(key["version"], None)
                if not versions:
                    del self.subjects[subject]
                return
            kind, references = value.get("schemaType", "AVRO"), value.get("references", [])
            number, deleted = value["version"], value.get("deleted", False)
            versions[number] = Version(subject, number, value["id"], kind, value["schema"], references, deleted)
            self._highest_id = max(self._highest_id, value["id"])

    def _write(self, key: dict[str, Any], value: dict[str, Any] | None) -> None:
        """Write to the topic, wait for the acknowledgement, then apply.

        Raises:
            UnavailableError: the broker did not acknowledge.
        """
        failed: list[KafkaError | None] = []
        data = None if value is None else json.dumps(value, separators=(",", ":")).encode()
        keyed = json.dumps(key, separators=(",", ":")).encode()
        self._producer.produce(
            TOPIC, key=keyed, value=data, partition=0, on_delivery=lambda error, _: failed.append(error)
        )
        self._producer.flush(_TIMEOUT_SECONDS)
        if failed != [None]:
            raise UnavailableError(f"the broker did not store the schema: {failed or 'no answer'}.", fix="Try again.")
        self._apply(key, value)

    # ---- reading

    def versions(self, subject: str, deleted: bool = False) -> list[Version]:
        """The versions of a subject, oldest first; also the softly deleted ones if `deleted`."""
        known = self.subjects.get(subject, {})
        return [known[number] for number in sorted(known) if deleted or not known[number].deleted]

    def by_id(self, number: int) -> list[Version]:
        """All versions that have this schema id; deleted ones too, since data may still refer to it."""
        return [v for versions in self.subjects.values() for v in versions.values() if v.id == number]

    def level(self, subject: str) -> str:
        """The compatibility level that holds for a subject."""
        return self.levels.get(subject) or self.levels.get(None, "BACKWARD")

    # ---- changing

    def add(self, subject: str, kind: str, text: str, references: list[dict[str, Any]]) -> Version:
        """Append a version to a subject; a schema that another subject has keeps its id.

        Raises:
            UnavailableError: the broker did not acknowledge.
        """
        number = max(self.subjects.get(subject, {}), default=0) + 1
        everywhere = (v for versions in self.subjects.values() for v in versions.values())
        same = next((v for v in everywhere if (v.kind, v.text, v.references) == (kind, text, references)), None)
        found = Version(subject, number, same.id if same else self._highest_id + 1, kind, text, references)
        self._store(found)
        return found

    def delete(self, found: Version, permanent: bool) -> None:
        """Mark a version deleted, or remove it for good."""
        if permanent:
            self._write(self._key(found), None)
        else:
            found.deleted = True
            self._store(found)

    def set_level(self, subject: str | None, level: str | None) -> None:
        """Set (or, with None, clear) the compatibility level of a subject, or of all with None."""
        value = None if level is None else {"compatibilityLevel": level}
        self._write({"keytype": "CONFIG", "subject": subject, "magic": 0}, value)

    def _key(self, found: Version) -> dict[str, Any]:
        return {"keytype": "SCHEMA", "subject": found.subject, "version": found.version, "magic": 1}

    def _store(self, found: Version) -> None:
        self._write(self._key(found), {**found.to_json(), "deleted": found.deleted})
