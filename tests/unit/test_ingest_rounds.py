"""Dead letters are gone through in order, each once, in pieces and rounds that are never larger than they may be."""

from __future__ import annotations

import random
import tempfile
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fasttrack.ingest import listing, rounds
from fasttrack.ingest.deadletters import Wanted
from fasttrack.lake.append import Ledger
from fasttrack.lake.schemas import DEAD_LETTERS, MOMENT, REPLAYS
from fasttrack.lake.tables import dead_letters_path, ensure, replays_path
from fasttrack.settings import Settings
from tests.unit.ingest_usecase import usecase

SHOP = usecase()
START = datetime(2020, 1, 1, tzinfo=UTC)
Place = tuple[str, int, int]


def fill(places: Settings, files: list[list[Place]], replayed: list[Place], size: int = 3) -> None:
    """Dead letters, a file for each list, and the replays of some; a letter's bytes say where it is."""
    for path, schema in ((dead_letters_path(places, SHOP), DEAD_LETTERS), (replays_path(places, SHOP), REPLAYS)):
        ensure(path, schema)
    for number, file in enumerate(files):
        rows = [
            {
                "stream": "placed", "topic": "shop.placed", "topic_id": name, "partition": partition, "offset": offset,
                "value": f"{name}/{partition}/{offset} ".encode().ljust(size), "reason": "empty", "detail": "",
                "contract_version": "1", "ingested_at": START,
            }
            for name, partition, offset in file
        ]  # fmt: skip
        Ledger(dead_letters_path(places, SHOP), f"app {number}").append(pa.Table.from_pylist(rows, DEAD_LETTERS), 1)
    done = [
        {"topic_id": name, "partition": partition, "offset": offset, "state": "done", "replayed_at": START}
        for name, partition, offset in replayed
    ]
    if done:
        Ledger(replays_path(places, SHOP), "replays").append(pa.Table.from_pylist(done, REPLAYS), 2)


PLACES = st.sets(st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(0, 2), st.integers(0, 40)), max_size=60)


@settings(max_examples=30, deadline=None)
@given(PLACES, st.randoms(use_true_random=False), st.integers(1, 9), st.integers(1, 7), st.sampled_from([400, 2**20]))
def test_each_place_that_was_not_replayed_is_in_one_round_in_order(
    every: set[Place], dice: random.Random, piece: int, size: int, most: int
) -> None:
    mixed = dice.sample(sorted(every), len(every))
    files = [part for part in (mixed[::3], mixed[1::3], mixed[2::3]) if part]
    done = [place for place in mixed if dice.random() < 0.4]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        places = Settings(lake=folder)
        fill(places, files, done, size=150)
        for name, value in (("_PIECE", piece), ("_ROUND", size), ("_ROUND_BYTES", most)):
            patch.setattr(rounds, name, value)
        patch.setattr(listing, "_PIECE", piece)
        tally = rounds.Tally()
        found = list(rounds.rounds(rounds.Shelf(SHOP, places), Wanted(), tally))
        some = list(rounds.rounds(rounds.Shelf(SHOP, places), Wanted(contains=b"b/1/"), rounds.Tally()))
        listed = listing.search(SHOP, places, Wanted())

    left = sorted(every - set(done))
    assert [letter.place for each in found for letter in each] == left
    assert all((letter.value or b"").split()[0] == b"%s/%d/%d" % (letter.place[0].encode(), *letter.place[1:])
               for each in found for letter in each)  # fmt: skip
    assert all(0 < len(each) <= size for each in found)
    assert all(len(each) == 1 or sum(len(letter.value or b"") for letter in each) <= most for each in found)
    assert (tally.matched, tally.before) == (len(every), len(done))
    assert [letter.place for each in some for letter in each] == [one for one in left if one[:2] == ("b", 1)]
    assert listed.matched == len(every) == sum(group["count"] for group in listed.groups)
    assert sum(group["replayed"] for group in listed.groups) == len(done)


def test_memory_does_not_grow_with_the_dead_letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "_PIECE", 5_000)
    monkeypatch.setattr(rounds, "_ROUND", 100)
    monkeypatch.setattr(listing, "_PIECE", 5_000)
    peaks = []
    for count in (10_000, 80_000):
        places = Settings(lake=str(tmp_path / str(count)))
        ensure(dead_letters_path(places, SHOP), DEAD_LETTERS)
        ensure(replays_path(places, SHOP), REPLAYS)
        # All but the last thousand were replayed.
        for path, schema, rows in (
            (dead_letters_path(places, SHOP), DEAD_LETTERS, count),
            (replays_path(places, SHOP), REPLAYS, count - 1000),
        ):
            known = {
                "topic_id": pa.array(["t"] * rows), "partition": pa.array(np.zeros(rows, np.int32)),
                "offset": pa.array(np.arange(rows)), "state": pa.array(["done"] * rows),
                "ingested_at": pa.array([START] * rows, MOMENT), "replayed_at": pa.array([START] * rows, MOMENT),
            }  # fmt: skip
            table = pa.table({each.name: known.get(each.name, pa.nulls(rows, each.type)) for each in schema})
            ledger = Ledger(path, "app")
            for low in range(0, rows, 5_000):
                ledger.append(table.slice(low, 5_000), low + 1)
        tracemalloc.start()
        tally = rounds.Tally()
        assert sum(len(each) for each in rounds.rounds(rounds.Shelf(SHOP, places), Wanted(), tally)) == 1000
        assert (tally.matched, tally.before) == (count, count - 1000)
        assert listing.search(SHOP, places, Wanted()).groups[0]["replayed"] == count - 1000
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # Ten bytes for each that is more would be seen; a tuple for each takes two hundred.
    assert peaks[1] - peaks[0] < 10 * 70_000, peaks
