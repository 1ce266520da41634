"""A buffer takes messages only in unbroken order, so nothing that is skipped by a client can be lost."""

from __future__ import annotations

from typing import Any, cast

from confluent_kafka import Message
from hypothesis import given
from hypothesis import strategies as st

from fasttrack.ingest.buffer import Buffer


class Sent:
    """A message as far as a buffer looks at it."""

    def __init__(self, offset: int) -> None:
        self._offset = offset

    def offset(self) -> int:
        return self._offset

    def value(self) -> bytes:
        return b"v%d" % self._offset

    def key(self) -> bytes:
        return b"k"


def messages(offsets: list[int]) -> list[Message]:
    return cast("list[Message]", [Sent(offset) for offset in offsets])


def buffer(start: int, end: int | None) -> Buffer:
    return Buffer(cast(Any, None), start, end)


@given(
    st.integers(0, 20), st.none() | st.integers(0, 40), st.lists(st.sets(st.integers(0, 40), max_size=25), max_size=6)
)
def test_what_is_taken_is_unbroken_and_what_is_not_is_pointed_at(
    start: int, end: int | None, runs: list[set[int]]
) -> None:
    found = buffer(start, end)
    for run in filter(None, runs):
        offsets = sorted(run)
        before = found.next
        broken = found.add(messages(offsets))
        wanted = [o for o in offsets if o >= before]
        unbroken = [o for at, o in enumerate(wanted) if o == before + at and (end is None or o < end)]
        assert found.next == before + len(unbroken)
        # One beyond the end points at a hole too, unless all before the end is there.
        assert (broken is None) == (unbroken == wanted or found.done)
        if broken is not None:
            assert offsets[broken] == wanted[len(unbroken)]
    assert found.offsets.tolist() == list(range(start, found.next))
    assert found.values == [b"v%d" % offset for offset in found.offsets.tolist()]


def test_it_is_due_when_full_or_at_its_end() -> None:
    found = buffer(0, 5)
    assert not found.due(3)
    found.add(messages([0, 1]))
    assert not found.due(3)
    found.add(messages([2]))
    assert found.due(3)
    assert not found.due(4)
    found.add(messages([3, 4, 5, 6]))
    assert found.done
    assert found.due(100)
