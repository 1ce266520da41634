"""Each offset goes to exactly one table, whatever an interrupted drain left behind; the index finds every copy."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fasttrack.ingest import dedup
from fasttrack.ingest.columncheck import Checked
from fasttrack.ingest.decide import Recorded, decide
from fasttrack.ingest.dedup import SeenIds
from fasttrack.ingest.rowcheck import Rejection
from tests.unit.ingest_usecase import usecase

STREAM = usecase().streams["paid"]
LONG = timedelta(days=400)


def checked(kinds: list[int]) -> Checked:
    """A message for each number: negative is damaged, another is the number of its event."""
    good = [at for at, kind in enumerate(kinds) if kind >= 0]
    rows = pa.table(
        {
            "event_id": pa.array([f"e{kinds[at]}" for at in good], pa.string()),
            "paid_at": pa.array([kinds[at] for at in good], pa.timestamp("us", "UTC")),
        }
    )
    rejected = [(at, Rejection("bad")) for at, kind in enumerate(kinds) if kind < 0]
    return Checked(rows, np.array(good, np.int64), rejected)


def drawn_marks(data: st.DataObject, end: int) -> list[int]:
    """Landed rows are committed first; the other two tables may lag, each for itself."""
    landed = data.draw(st.integers(0, end))
    return [landed, data.draw(st.integers(0, landed)), data.draw(st.integers(0, landed))]


KINDS = st.lists(st.integers(-1, 12), min_size=1, max_size=40)


@settings(max_examples=300, deadline=None)
@given(KINDS, st.data())
def test_whatever_was_committed_before_each_offset_ends_in_one_table(kinds: list[int], data: st.DataObject) -> None:
    offsets = np.arange(len(kinds), dtype=np.int64)
    clean = decide(STREAM, offsets, checked(kinds), SeenIds(LONG), Recorded())
    good = checked(kinds).index
    truth = (
        {int(good[row]) for row in clean.landed},
        {offset for offset, _ in clean.duplicates},
        {at for at, _ in clean.dead},
    )
    marks = drawn_marks(data, len(kinds))
    held = [frozenset(o for o in part if o < mark) for part, mark in zip(truth, marks, strict=True)]
    start = min(marks)
    rest = offsets[start:]
    seen = SeenIds(LONG)
    landed_ids = sorted(f"e{kinds[o]}" for o in held[0])
    seen.first(pa.array(landed_ids, pa.string()), np.zeros(len(landed_ids), np.int64))
    again = checked(kinds[start:])
    found = decide(STREAM, rest, again, seen, Recorded(*[frozenset(o for o in h if o >= start) for h in held], *marks))
    assert held[0] | {int(rest[again.index[row]]) for row in found.landed} == truth[0]
    assert held[1] | {offset for offset, _ in found.duplicates} == truth[1]
    assert held[2] | {int(rest[at]) for at, _ in found.dead} == truth[2]


@settings(max_examples=200, deadline=None)
@given(KINDS, KINDS, st.data())
def test_a_contract_changed_meanwhile_still_sends_each_offset_to_one_table(
    old: list[int], new: list[int], data: st.DataObject
) -> None:
    size = min(len(old), len(new))
    offsets = np.arange(size, dtype=np.int64)
    clean = decide(STREAM, offsets, checked(old[:size]), SeenIds(LONG), Recorded())
    good = checked(old[:size]).index
    truth = [{int(good[r]) for r in clean.landed}, {o for o, _ in clean.duplicates}, {at for at, _ in clean.dead}]
    marks = drawn_marks(data, size)
    held = [frozenset(o for o in part if o < mark) for part, mark in zip(truth, marks, strict=True)]
    start = min(marks)
    again = checked(new[start:size])
    recorded = Recorded(*[frozenset(o for o in h if o >= start) for h in held], *marks)
    seen = SeenIds(LONG)
    ids = [f"e{old[o]}" for o in sorted(held[0])]
    seen.first(pa.array(ids, pa.string()), np.zeros(len(ids), np.int64))
    found = decide(STREAM, offsets[start:], again, seen, recorded)
    places = [
        *(o for h in held for o in h),
        *(start + int(again.index[row]) for row in found.landed),
        *(offset for offset, _ in found.duplicates),
        *(start + at for at, _ in found.dead),
    ]
    assert sorted(places) == list(range(size))
    # Whatever is called a copy is one of an event that landed (where dead letters are not decided on yet: they come
    # last, so what is undecided below their mark can only be a copy).
    landed = {f"e{old[o]}" for o in held[0]} | {again.rows["event_id"][int(row)].as_py() for row in found.landed}
    assert {name for offset, name in found.duplicates if name is not None and offset >= marks[2]} <= landed


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.integers(0, 30), max_size=20), max_size=8))
def test_the_index_finds_every_copy_within_its_window(batches: list[list[int]]) -> None:
    seen, known = SeenIds(LONG), set()
    for batch in batches:
        ids = pa.array([f"e{n}" for n in batch], pa.string())
        expected = [not (n in known or known.add(n)) for n in batch]  # type: ignore[func-returns-value]
        assert seen.first(ids, np.array(batch, np.int64)).tolist() == expected
    assert len(seen) == len(known)


def test_the_index_forgets_what_is_older_than_its_window_and_nothing_newer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dedup, "SUPPORT", 1)
    seen = SeenIds(timedelta(hours=8))
    hour = 3_600_000_000
    for n in range(100):
        seen.first(pa.array([f"e{n}"]), np.array([n * hour]))
        inside = [f"e{k}" for k in range(max(0, n - 8), n + 1)]
        assert not seen.first(pa.array(inside), np.full(len(inside), n * hour)).any()
    assert len(seen) <= 8 + 3
