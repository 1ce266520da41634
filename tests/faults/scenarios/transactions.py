"""Producers send in transactions, some of which they take back: the offsets of a topic are full of holes."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import pyarrow.dataset as ds
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from deltalake import DeltaTable

from tests.faults.load import Ints
from tests.faults.oracle import Verdict
from tests.faults.outcome import Outcome
from tests.faults.rig import Bench, Rig, rounds
from tests.faults.scenarios.kills import at_a_random_moment

_EVENTS = 2000
_KILLS_A_LOAD = 50
_LONGEST = 60
_TAKEN_BACK = 0.2


def transactions(rig: Rig, times: int, events: int) -> Outcome:
    """kill -9 at random moments while topics are drained in which every few messages a transaction ends."""
    outcome = Outcome("kill -9, transactions")
    share = max(_EVENTS, events // times)
    for upto in rounds(times, _KILLS_A_LOAD):
        with rig.bench(0) as bench:
            sender = Producer(
                {"bootstrap.servers": rig.settings.kafka, "transactional.id": bench.load.usecase.name, "log_level": 0}
            )
            sender.init_transactions(60)
            while outcome.times < upto:
                _send(rig, bench, sender, share)
                drain = bench.drain(workers=rig.chance.choice([1, 2]), batch=rig.chance.choice([100, 500, 2000]))
                outcome.times += at_a_random_moment(rig, drain)
            bench.drain(workers=2).finish()
            found = _judge(bench)
            outcome.verdict += found
            assert found.clean, f"{bench.load.usecase.name} in {bench.lake}: {found}"
    return outcome.ended()


def _send(rig: Rig, bench: Bench, sender: Producer, count: int) -> None:
    """Send good events, a few in each transaction; who takes one back sends its events again in the next."""
    for (stream, partition), (low, high) in bench.load.plan(count, 0.0, 0.0).items():
        while low < high:
            end = min(high, low + rig.chance.randint(1, _LONGEST))
            sender.begin_transaction()
            for value, key in zip(*bench.load.messages(stream, partition, low, end), strict=True):
                sender.produce(bench.load.usecase.topic(stream), value, key, partition)
            if rig.chance.random() < _TAKEN_BACK:
                assert sender.flush(60) == 0
                sender.abort_transaction(60)
            else:
                sender.commit_transaction(60)
                low = end


@dataclass
class _Held:
    """Offset and serial number of the events of one partition, ascending by offset."""

    offsets: Ints
    serials: Ints


def _judge(bench: Bench) -> Verdict:
    """As `tests.faults.oracle`, for offsets with holes: a reader of its own says which messages there are."""
    found = Verdict()
    root = f"{bench.lake}/{bench.load.usecase.name}"
    for name in ("duplicates", "dead_letters"):
        found.misplaced += DeltaTable(f"{root}/{name}").to_pyarrow_dataset().count_rows()
    for stream, partition in bench.load.partitions:
        raw = DeltaTable(f"{root}/raw/{stream}").to_pyarrow_dataset()
        rows = raw.to_table(columns=["_offset", "serial"], filter=ds.field("_partition") == partition).sort_by(
            "_offset"
        )
        have = _Held(rows["_offset"].to_numpy(), rows["serial"].to_numpy())
        sent = _read(bench, stream, partition)
        # The producer's own word: all that was planned was committed once, in order.
        assert sent.serials.tolist() == list(range(len(bench.load.partitions[stream, partition].kinds)))
        distinct, at = np.unique(have.offsets, return_index=True)
        common, ours, theirs = np.intersect1d(distinct, sent.offsets, return_indices=True)
        altered = int((have.serials[at][ours] != sent.serials[theirs]).sum())
        found += Verdict(
            events=len(sent.offsets),
            landed=len(have.offsets),
            lost=len(sent.offsets) - len(common),
            twice=len(have.offsets) - len(distinct),
            invented=len(distinct) - len(common),
            altered=altered,
            out_of_order=int((np.diff(have.serials) <= 0).sum()),
        )
    return found


def _read(bench: Bench, stream: str, partition: int) -> _Held:
    consumer = Consumer(
        {"bootstrap.servers": bench.settings.kafka, "group.id": "oracle", "enable.auto.commit": False}
        | {"isolation.level": "read_committed", "enable.partition.eof": True}
    )
    offsets: list[int] = []
    values: list[bytes] = []
    try:
        consumer.assign([TopicPartition(bench.load.usecase.topic(stream), partition, 0)])
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            for message in consumer.consume(10_000, 0.5):
                error, offset, value = message.error(), message.offset(), message.value()
                if error is not None and error.code() == KafkaError._PARTITION_EOF:
                    serials = [int(value.partition(b'"serial":')[2].partition(b",")[0]) for value in values]
                    return _Held(np.array(offsets, np.int64), np.array(serials, np.int64))
                assert error is None and offset is not None and value is not None, error
                offsets.append(offset)
                values.append(value)
        raise AssertionError(f"{stream}, partition {partition}: Kafka can't be read to its end")
    finally:
        consumer.close()
