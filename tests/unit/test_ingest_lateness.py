"""Late events are counted the same however they are cut into batches, and wherever the drain is restarted."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fasttrack.ingest import partition as partition_module
from fasttrack.ingest.broker import Topic
from fasttrack.ingest.lateness import Watermark, moment
from fasttrack.ingest.partition import PartitionWriter, StreamContext
from fasttrack.lake.schemas import DEAD_LETTERS, DUPLICATES, raw_schema
from fasttrack.lake.tables import dead_letters_path, duplicates_path, ensure, raw_path
from fasttrack.settings import Settings
from fasttrack.usecase.streams import Stream
from tests.unit.ingest_usecase import event, message, usecase

SHOP = usecase()
HOUR = 3600 * 10**6
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
START = datetime(2020, 1, 1, 10, tzinfo=UTC)


def one_by_one(times: list[int], allowed: int) -> tuple[int, int | None]:
    """The meaning: an event is late if the newest before it lies further ahead than is allowed."""
    late, newest = 0, None
    for when in times:
        late += newest is not None and when < newest - allowed
        newest = when if newest is None else max(newest, when)
    return late, None if newest is None else newest - allowed


def cut(items: list[int], cuts: list[int]) -> Iterator[list[int]]:
    edges = sorted({0, len(items), *(at % (len(items) + 1) for at in cuts)})
    for low, high in itertools.pairwise(edges):
        yield items[low:high]


TIMES = st.lists(st.integers(-5 * HOUR, 5 * HOUR), max_size=60)


@given(TIMES, st.lists(st.integers(0, 60), max_size=8), st.integers(0, 3 * HOUR))
def test_it_counts_as_one_by_one_in_any_batches(times: list[int], cuts: list[int], allowed: int) -> None:
    watermark = Watermark(timedelta(microseconds=allowed))
    late = sum(watermark.pass_by(np.array(part, np.int64)) for part in cut(times, cuts))
    assert (late, watermark.at) == one_by_one(times, allowed)


def test_a_clock_that_runs_ahead_makes_nobody_else_late() -> None:
    now, year_2099 = 1000 * HOUR, 4_070_908_800 * 10**6
    watermark = Watermark(timedelta(hours=1), now=lambda: now)
    assert watermark.pass_by(np.array([998 * HOUR, year_2099, 999 * HOUR, 1000 * HOUR], np.int64)) == 0
    assert watermark.at == 999 * HOUR
    assert Watermark(timedelta(hours=1), year_2099, now=lambda: now).at == 999 * HOUR


def test_the_years_1_and_9999_do_not_overflow() -> None:
    ends = [datetime(9999, 12, 31, tzinfo=UTC), datetime(1, 1, 1, tzinfo=UTC)]
    times = [(when - EPOCH) // timedelta(microseconds=1) for when in ends]
    watermark = Watermark(timedelta(0), now=lambda: times[0])
    assert watermark.pass_by(np.array(times, np.int64)) == 1
    assert moment(watermark.at) == "9999-12-31T00:00:00+00:00"
    assert moment(None) is None


@pytest.fixture(autouse=True, scope="module")
def _no_registry() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partition_module, "known", lambda *_: frozenset({1}))
        yield


# Minutes after ten o'clock, and whether the message is damaged or a copy of the first event.
SENT = st.lists(st.tuples(st.integers(0, 600), st.sampled_from(["good", "good", "damaged", "copy"])), max_size=25)


@settings(max_examples=40, deadline=None)
@given(SENT, st.lists(st.integers(0, 25), max_size=4), st.booleans())
def test_a_restarted_writer_goes_on_where_the_table_is(
    sent: list[tuple[int, str]], cuts: list[int], restart: bool
) -> None:
    stream: Stream = SHOP.streams["placed"]
    values: list[bytes | None] = []
    landing: list[int] = []
    ids: set[int] = set()
    for number, (minutes, kind) in enumerate(sent):
        when = START + timedelta(minutes=minutes)
        name = min(ids) if kind == "copy" and ids else number
        document = event(name, placed_at=f"{when:%Y-%m-%dT%H:%M:%SZ}", order_id="o")
        values.append(b"damaged" if kind == "damaged" else message(document))
        # What does not land is not late, and does not make others late either.
        if kind != "damaged" and name not in ids:
            ids.add(name)
            landing.append((when - EPOCH) // timedelta(microseconds=1))
    with tempfile.TemporaryDirectory() as folder:
        places = Settings(lake=folder)
        ensure(raw_path(places, SHOP, "placed"), raw_schema(stream))
        ensure(duplicates_path(places, SHOP), DUPLICATES)
        ensure(dead_letters_path(places, SHOP), DEAD_LETTERS)

        def opened() -> PartitionWriter:
            return PartitionWriter(
                StreamContext(SHOP, places, "placed"), "cluster", Topic("shop.placed", "topic-id", 3), 0
            )

        writer, late, watermark = opened(), 0, None
        for part in cut(list(range(len(sent))), cuts):
            if not part:
                continue
            if restart:
                writer = opened()
            batch = [values[at] for at in part]
            written = writer.write(np.array(part, np.int64), batch, [b"o"] * len(part), True)
            late, watermark = late + written.late, written.watermark
        assert (late, watermark) == one_by_one(landing, stream.allowed_lateness // timedelta(microseconds=1))
