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


def plain(start: int, end: int | None, given: list[int]) -> tuple[list[int], set[int], int]:
    """What is taken of messages given one by one, what is passed over, and what comes next."""
    taken: list[int] = []
    holes: set[int] = set()
    following = start
    for offset in given:
        if offset >= following and (end is None or following < end):
            holes |= set(range(following, offset if end is None else min(offset, end)))
            if end is None or offset < end:
                taken.append(offset)
            following = offset + 1 if end is None else min(offset + 1, end)
    return taken, holes, following


@given(
    st.integers(0, 20), st.none() | st.integers(0, 40), st.lists(st.lists(st.integers(0, 40), max_size=25), max_size=6)
)
def test_every_offset_is_taken_or_noted_as_passed_over(start: int, end: int | None, batches: list[list[int]]) -> None:
    found = buffer(start, end)
    for batch in filter(None, batches):
        found.add(messages(batch))
    taken, holes, following = plain(start, end, [offset for batch in batches for offset in batch])
    assert found.offsets.tolist() == taken
    assert found.values == [b"v%d" % offset for offset in taken]
    assert [offset for low, high in found.holes for offset in range(low, high)] == sorted(holes)
    assert found.next == following
    assert sorted([*taken, *holes]) == list(range(start, following))


@given(st.integers(0, 20), st.lists(st.integers(0, 40), min_size=1, max_size=25))
def test_it_is_in_its_place_once_a_message_follows(start: int, given: list[int]) -> None:
    found = buffer(start, None)
    found.add(messages(given))
    wanted = [offset for offset in given if offset >= start]
    assert found.placed == (bool(wanted) and wanted[0] == start)


def test_keys_count_as_memory_too() -> None:
    found = buffer(0, None)
    found.add(messages([0, 1, 2]))
    assert found.bytes == 3 * len(b"v0" + b"k")


def test_where_it_stands_is_told_without_what_is_not_committed() -> None:
    found = buffer(4, None)
    found.add(messages([4, 5]))
    assert (found.position, found.emptied().position) == (4, 6)
    # Behind the last message of the partition lies what a transaction leaves.
    found.ended = 7
    assert (found.position, found.emptied().position) == (4, 7)


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
