"""A topic of another cluster (here: of the same) as a source."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

from fasttrack.errors import ConfigurationError, DataLossError, UnavailableError
from fasttrack.ingest.sources.source import Unordered
from fasttrack.ingest.sources.stream import TopicReader
from fasttrack.local.platform import Platform
from fasttrack.usecase.sources import StreamSource
from tests.integration.source_tables import take
from tests.unit.ingest_usecase import usecase


@pytest.fixture
def kafka(platform: Platform) -> str:
    return platform.settings().kafka


def reader(kafka: str, topic: str, value: str = "json") -> TopicReader:
    given = {"kind": "stream", "stream": "placed", "connection_env": "OTHERS", "topic": topic, "value": value}
    return TopicReader(usecase(), "others", StreamSource.model_validate(given), {"OTHERS": kafka})


def send(kafka: str, topic: str, *values: Any, key: bytes | None = b"k", partition: int = 0) -> None:
    producer = Producer({"bootstrap.servers": kafka})
    for value in values:
        content = value if isinstance(value, bytes | None) else json.dumps(value).encode()
        producer.produce(topic, content, key, partition)
    assert producer.flush(30) == 0


def test_documents_are_read_once_and_go_on_where_they_stopped(kafka: str, topic: str) -> None:
    send(kafka, topic, *[{"n": n} for n in range(20)])
    send(kafka, topic, *[{"n": n} for n in range(20, 30)], partition=1)
    source = reader(kafka, topic)
    source.open(None)
    assert source.lag() == 30
    found = take(source, lambda got: len(got) == 30)
    assert sorted(record.fields["n"] for record in found) == list(range(30))
    assert len({record.identity for record in found}) == 30
    assert source.lag() == 0
    position = source._position()
    source.close()
    send(kafka, topic, {"n": 30})
    again = reader(kafka, topic)
    again.open(position)
    (new,) = take(again, lambda got: len(got) == 1)
    assert new.fields == {"n": 30}
    assert new.identity not in {record.identity for record in found}
    again.close()
    # Read from the beginning, the same messages have the same identities.
    third = reader(kafka, topic)
    third.open(None)
    assert {r.identity for r in take(third, lambda got: len(got) == 31)} == {r.identity for r in [*found, new]}
    third.close()


def test_what_is_still_to_come_is_known_whichever_partition_is_read_first(kafka: str, topic: str) -> None:
    for partition in (0, 1):
        send(kafka, topic, *[{"n": n} for n in range(10)], partition=partition)
    source = reader(kafka, topic)
    source.open(None)
    everything = {record.identity for record in take(source, lambda got: len(got) == 20)}
    beginning, end = ({**source._position(), "offsets": {"0": low, "1": 0}} for low in (0, 7))
    end["offsets"]["1"] = 10
    assert isinstance(source, Unordered) and source.expected(everything) == set()
    # After a crash one partition may come first, as long as it lasts: what was sent of the other is still looked for.
    source.open(end)
    left = {record.identity for record in take(source, lambda got: len(got) == 3)}
    source.open(end)
    assert source.expected(everything) == left
    source.open(beginning)
    assert source.expected([*everything, "another-topic/0/3"]) == everything
    source.close()


def test_what_is_no_document_is_passed_on_as_it_is(kafka: str, topic: str) -> None:
    send(kafka, topic, b"{broken", b"[1]", None, b"\0\0\0\0\x05" + b'{"n": 1}')
    source = reader(kafka, topic)
    source.open(None)
    found = take(source, lambda got: len(got) == 4)
    assert [(record.fields, record.raw) for record in found[:3]] == [(None, b"{broken"), (None, b"[1]"), (None, None)]
    assert found[3].fields == {"n": 1}
    source.close()


def test_events_pass_through_with_their_keys(kafka: str, topic: str) -> None:
    send(kafka, topic, b"\0\0\0\0\x05{}", b"", None, key=b"o1")
    source = reader(kafka, topic, "event")
    source.open(None)
    found = take(source, lambda got: len(got) == 3)
    # A tombstone stays one: an empty value is another message.
    assert [(record.raw, record.key) for record in found] == [(b"\0\0\0\0\x05{}", b"o1"), (b"", b"o1"), (None, b"o1")]
    assert all(record.fields is None for record in found)
    source.close()


def test_a_partition_that_is_added_is_read_from_its_beginning(kafka: str, topic: str) -> None:
    source = reader(kafka, topic)
    source.open(None)
    assert source.read(0.2) is None
    admin = AdminClient({"bootstrap.servers": kafka})
    admin.create_partitions([NewPartitions(topic, 3)])[topic].result(30)
    while len(admin.list_topics(topic, timeout=30).topics[topic].partitions) < 3:
        time.sleep(0.1)
    send(kafka, topic, {"n": 1}, partition=2)
    (record,) = take(source, lambda got: len(got) == 1)
    assert record.identity.endswith("/2/0")
    source.close()


def test_messages_that_were_deleted_unread_are_lost_data(kafka: str, topic: str) -> None:
    send(kafka, topic, *[{"n": n} for n in range(10)])
    source = reader(kafka, topic)
    source.open(None)
    take(source, lambda got: len(got) == 10)
    position = {**source._position(), "offsets": {"0": 3, "1": 0}}
    source.close()
    admin = AdminClient({"bootstrap.servers": kafka})
    for future in admin.delete_records([TopicPartition(topic, 0, 5)]).values():
        future.result(30)
    with pytest.raises(DataLossError, match="partition 0 begins at 5, 3 is needed") as told:
        source.open(position)
    assert told.value.where == "sources.others"
    # What was read is not needed any more.
    source.open({**position, "offsets": {"0": 5, "1": 0}})
    assert [record.fields["n"] for record in take(source, lambda got: len(got) == 5)] == [5, 6, 7, 8, 9]
    source.close()


def test_messages_that_are_deleted_while_they_are_read_are_lost_data(kafka: str, topic: str) -> None:
    send(kafka, topic, {"n": 0})
    source = reader(kafka, topic)
    source.open(None)
    take(source, lambda got: len(got) == 1)
    source._consumer.pause([TopicPartition(topic, 0)])
    send(kafka, topic, {"n": 1}, {"n": 2})
    admin = AdminClient({"bootstrap.servers": kafka})
    for future in admin.delete_records([TopicPartition(topic, 0, 2)]).values():
        future.result(30)
    source._consumer.resume([TopicPartition(topic, 0)])
    end = time.monotonic() + 60
    with pytest.raises(DataLossError, match="begins at 2, 1 is needed"):
        while time.monotonic() < end:
            try:
                assert source.read(0.5) is None
            except UnavailableError as error:
                assert "lost its place" in str(error)
    source.close()


def test_a_topic_that_was_made_again_is_not_taken_for_the_old_one(kafka: str, topic: str) -> None:
    send(kafka, topic, {"n": 0})
    source = reader(kafka, topic)
    source.open(None)
    take(source, lambda got: len(got) == 1)
    position = source._position()
    admin = AdminClient({"bootstrap.servers": kafka})
    admin.delete_topics([topic])[topic].result(30)
    with pytest.raises((DataLossError, UnavailableError)):
        end = time.monotonic() + 60
        while time.monotonic() < end:
            source.read(0.5)
    source.close()
    end = time.monotonic() + 60
    while True:
        try:
            admin.create_topics([NewTopic(topic, 2, 1)])[topic].result(30)
            break
        except Exception:
            # Deleting takes a moment.
            assert time.monotonic() < end
            time.sleep(0.2)
    again = reader(kafka, topic)
    with pytest.raises(DataLossError, match="deleted and made again"):
        for _ in range(100):
            try:
                again.open(position)
            except ConfigurationError:
                time.sleep(0.2)
    again.close()


def test_what_cannot_be_read_is_told_with_the_cure(kafka: str) -> None:
    with pytest.raises(ConfigurationError, match="there is no topic 'nothing-at-all'"):
        reader(kafka, "nothing-at-all").open(None)
    with pytest.raises(ConfigurationError, match="OTHERS is not set"):
        reader("", "x")


def test_a_cluster_that_is_away_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fasttrack.ingest.sources.stream._PATIENCE_SECONDS", 0.5)
    with pytest.raises(UnavailableError, match="does not answer"):
        reader("127.0.0.1:1", "x").open(None)
