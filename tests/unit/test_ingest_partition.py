"""A partition's writer, interrupted at any commit and taken over at any moment, loses and repeats nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fasttrack.ingest import partition as partition_module
from fasttrack.ingest.broker import Topic
from fasttrack.ingest.partition import PartitionWriter, StreamContext
from fasttrack.lake.append import Fenced, Ledger
from fasttrack.lake.schemas import DEAD_LETTERS, DUPLICATES, raw_schema
from fasttrack.lake.tables import dead_letters_path, duplicates_path, ensure, raw_path, read
from fasttrack.settings import Settings
from tests.unit.ingest_usecase import event, message, usecase

SHOP = usecase()
TOPIC = Topic("shop.placed", "topic-id", 3)


class Killed(BaseException):
    """The process is gone before a commit."""


class Partition:
    """A lake, and a log of messages: -1 is damaged, another number is that event's."""

    def __init__(self, folder: str, kinds: list[int]) -> None:
        self.settings = Settings(lake=folder)
        ensure(raw_path(self.settings, SHOP, "placed"), raw_schema(SHOP.streams["placed"]))
        ensure(duplicates_path(self.settings, SHOP), DUPLICATES)
        ensure(dead_letters_path(self.settings, SHOP), DEAD_LETTERS)
        self.kinds = kinds
        self.values: list[bytes | None] = [b"damaged" if kind < 0 else message(event(kind)) for kind in kinds]
        self.keys: list[bytes | None] = [f"o{kind}".encode() for kind in kinds]

    def open(self) -> PartitionWriter:
        return PartitionWriter(StreamContext(SHOP, self.settings, "placed"), "cluster", TOPIC, 0)

    def feed(self, writer: PartitionWriter, low: int, high: int, last: bool) -> None:
        offsets = np.arange(low, high, dtype=np.int64)
        writer.write(offsets, self.values[low:high], self.keys[low:high], last)

    def assert_exact(self) -> None:
        def offsets(path: str, column: str) -> list[int]:
            return sorted(read(path, [column])[column].to_pylist())

        seen: set[int] = set()
        dead = [at for at, kind in enumerate(self.kinds) if kind < 0]
        again = [at for at, k in enumerate(self.kinds) if k >= 0 and (k in seen or seen.add(k))]  # type: ignore[func-returns-value]
        landed = sorted(set(range(len(self.kinds))) - set(dead) - set(again))
        assert offsets(raw_path(self.settings, SHOP, "placed"), "_offset") == landed
        assert offsets(duplicates_path(self.settings, SHOP), "offset") == again
        assert offsets(dead_letters_path(self.settings, SHOP), "offset") == dead


@pytest.fixture(autouse=True, scope="module")
def _no_registry() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partition_module, "known", lambda *_: {1: ""})
        yield


KINDS = st.lists(st.integers(-1, 9), min_size=1, max_size=30)
STEPS = st.lists(
    st.tuples(st.sampled_from(["write", "write", "last", "settle", "open"]), st.integers(1, 12), st.integers(0, 4)),
    max_size=14,
)


@settings(max_examples=60, deadline=None)
@given(KINDS, STEPS)
def test_kills_before_any_commit_lose_and_repeat_nothing(kinds: list[int], steps: list[tuple[str, int, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        log = Partition(folder, kinds)
        real, left = Ledger.append, [0]

        def mortal(self: Ledger, rows: object, mark: int) -> int:
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return real(self, rows, mark)

        patch.setattr(Ledger, "append", mortal)
        writer, at = log.open(), 0
        for step, size, commits in steps:
            # 0 to 3 commits succeed before the process is killed; 4 is more than a step makes.
            left[0] = commits if commits < 4 else 99
            try:
                if step in ("write", "last") and at < len(kinds):
                    high = min(at + size, len(kinds))
                    log.feed(writer, at, high, step == "last")
                    at = high
                elif step == "settle":
                    writer.settle()
                elif step == "open":
                    raise Killed
            except Killed:
                writer = log.open()
                at = writer.mark
        left[0] = 999
        if at < len(kinds):
            log.feed(writer, at, len(kinds), True)
        writer.settle()
        log.assert_exact()
        assert log.open().mark == len(kinds)


@settings(max_examples=40, deadline=None)
@given(KINDS, st.lists(st.tuples(st.integers(0, 2), st.integers(1, 12), st.booleans()), max_size=20))
def test_several_writers_at_once_lose_and_repeat_nothing(kinds: list[int], turns: list[tuple[int, int, bool]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        log = Partition(folder, kinds)
        writers = [log.open() for _ in range(3)]
        places = [0, 0, 0]
        for who, size, last in [*turns, (0, len(kinds), True), (0, len(kinds), True)]:
            try:
                high = min(places[who] + size, len(kinds))
                if high > places[who]:
                    log.feed(writers[who], places[who], high, last)
                elif last:
                    writers[who].settle()
                places[who] = high
            except Fenced:
                writers[who] = log.open()
                places[who] = writers[who].mark
        log.feed(writers[0], places[0], len(kinds), True) if places[0] < len(kinds) else writers[0].settle()
        log.assert_exact()


@pytest.mark.parametrize("kills", range(7))
def test_a_partition_whose_beginning_kafka_deleted_is_begun_there_whenever_it_is_killed(kills: int) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        log = Partition(folder, [0, 1, 2, 3, 4, 5])
        real, left = Ledger.append, [kills]

        def mortal(self: Ledger, rows: object, mark: int) -> int:
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return real(self, rows, mark)

        patch.setattr(Ledger, "append", mortal)
        # Its first offset is 3, later 4: nothing needs what lies before.
        with suppress(Killed):
            writer = log.open()
            writer.begin(3)
            log.feed(writer, 3, 5, False)
        left[0] = 99
        writer = log.open()
        if not writer.begun:
            writer.begin(4)
        assert writer.mark >= 3
        log.feed(writer, writer.mark, 6, True)
        landed = sorted(read(raw_path(log.settings, SHOP, "placed"), ["_offset"])["_offset"].to_pylist())
        assert landed in ([3, 4, 5], [4, 5])
        assert (3 in landed) == (kills >= 3)
        assert log.open().mark == 6


def test_no_table_stays_behind_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kafka may delete what a mark that lags would want to be read again."""
    with tempfile.TemporaryDirectory() as folder:
        log = Partition(folder, list(range(10)))
        writer = log.open()
        log.feed(writer, 0, 4, False)
        # Nothing was a duplicate or dead, so two commits were saved.
        assert (writer.mark, writer.overdue) == (0, False)
        monkeypatch.setattr(partition_module, "_LAG_SECONDS", 0.0)
        assert writer.overdue
        log.feed(writer, 4, 6, False)
        assert (writer.mark, writer.overdue, log.open().mark) == (6, False, 6)


def test_a_clock_that_runs_ahead_does_not_end_the_search_for_copies() -> None:
    """Not while the drain runs, and not when it starts again: one event of 2099 stands in the table then."""
    with tempfile.TemporaryDirectory() as folder:
        log = Partition(folder, [0, 1, 2, 3, 99, 4, 0, 1, 5, 2, 3])
        log.values[4] = message(event(99, placed_at="2099-01-01T00:00:00Z"))
        writer = log.open()
        for low, high in [(0, 4), (4, 5), (5, 6), (6, 8)]:
            log.feed(writer, low, high, True)
        log.feed(log.open(), 8, 11, True)
        log.assert_exact()


def test_an_event_that_a_relaxed_contract_takes_too_late_is_a_dead_letter_and_no_copy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed after the raw table's commit, which had refused it: it is nowhere, and must stay replayable."""
    with tempfile.TemporaryDirectory() as folder:
        log = Partition(folder, [0, 1, 2])
        log.values[1] = message(event(1, pieces=500))
        real = Ledger.append

        def mortal(self: Ledger, rows: object, mark: int) -> int:
            if "dead_letters" in self.path:
                raise Killed
            return real(self, rows, mark)

        monkeypatch.setattr(Ledger, "append", mortal)
        with pytest.raises(Killed):
            log.feed(log.open(), 0, 3, True)
        monkeypatch.setattr(Ledger, "append", real)
        log.values[1] = message(event(1, pieces=5))
        log.feed(log.open(), 0, 3, True)
        dead = read(dead_letters_path(log.settings, SHOP), ["offset", "reason"])
        assert dead.to_pylist() == [{"offset": 1, "reason": "contract changed"}]
        assert read(duplicates_path(log.settings, SHOP), ["offset"]).num_rows == 0


def test_a_writer_opened_while_another_commits_takes_no_event_for_its_own_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as folder:
        log = Partition(folder, [0, 1, 2, 3])
        other = log.open()
        real = PartitionWriter._index

        def late(self: PartitionWriter) -> object:
            monkeypatch.undo()
            # The other one lands its batch between our reading of the mark and of the ids, and dies.
            offsets = np.arange(4, dtype=np.int64)
            checked = other._context.check(log.values, log.keys)
            decision = partition_module.decide(SHOP.streams["placed"], offsets, checked, other._seen, other._recorded)
            other._landed.append(other._landed_rows(decision, checked, offsets), 4)
            return real(self)

        monkeypatch.setattr(PartitionWriter, "_index", late)
        monkeypatch.setattr(partition_module, "known", lambda *_: {1: ""})
        writer = log.open()
        monkeypatch.setattr(partition_module, "known", lambda *_: {1: ""})
        with pytest.raises(Fenced):
            log.feed(writer, 0, 4, True)
        writer = log.open()
        log.feed(writer, writer.mark, 4, True)
        log.assert_exact()
