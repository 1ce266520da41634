"""The index of event ids: it finds every copy within the window, as a plain set would, in little memory."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fasttrack.ingest import dedup
from fasttrack.ingest.dedup import SeenIds

LONG = timedelta(days=400)
HOUR = 3_600_000_000


def ask(seen: SeenIds, ids: list[str], when: list[int] | None = None) -> list[bool]:
    """Which of the ids are new."""
    times = np.array(when if when is not None else [0] * len(ids), np.int64)
    found: list[bool] = seen.first(pa.array(ids, pa.string()), times).tolist()
    return found


def plain(batches: list[list[str]]) -> list[list[bool]]:
    """What a set says."""
    known: set[str] = set()
    return [[not (event_id in known or known.add(event_id)) for event_id in batch] for batch in batches]  # type: ignore[func-returns-value]


@given(
    st.lists(st.lists(st.sampled_from([f"e{n}" for n in range(40)] + ["", "é", "\x00e1"]), max_size=30), max_size=30)
)
def test_it_says_what_a_set_says(batches: list[list[str]]) -> None:
    seen = SeenIds(LONG)
    assert [ask(seen, batch) for batch in batches] == plain(batches)
    assert len(seen) == len({event_id for batch in batches for event_id in batch})


@given(
    st.lists(st.lists(st.integers(0, 60), max_size=30), max_size=20), st.integers(1, 5), st.sampled_from([1, 7, 2**60])
)
def test_halves_that_are_alike_don_t_make_ids_alike(batches: list[list[int]], first: int, second: int) -> None:
    """With hashes so poor that one half is mostly the same, only both together tell ids apart."""
    with pytest.MonkeyPatch.context() as patch:
        # `hash` of the id itself, and of the id behind the salt.
        patch.setattr(
            dedup,
            "hash",
            lambda text: int(text[1:]) % second if text[0] == "\x00" else int(text) // first % 3,
            raising=False,
        )
        texts = [[str(number) for number in batch] for batch in batches]
        seen, pairs = SeenIds(LONG), [[(n // first % 3, n % second) for n in batch] for batch in batches]
        wanted = plain([[repr(pair) for pair in batch] for batch in pairs])
        assert [ask(seen, batch) for batch in texts] == wanted


def test_what_is_older_than_the_window_is_forgotten_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dedup, "SUPPORT", 1)
    seen = SeenIds(timedelta(hours=8))
    for hour in range(100):
        assert ask(seen, [f"h{hour}-{n}" for n in range(10)], [hour * HOUR] * 10) == [True] * 10
        inside = [f"h{earlier}-3" for earlier in range(max(0, hour - 8), hour + 1)]
        assert not any(ask(seen, inside, [hour * HOUR] * len(inside)))
    assert len(seen) <= 10 * 11
    assert ask(seen, ["h5-0"], [99 * HOUR]) == [True]


def test_memory_is_that_of_the_window() -> None:
    seen = SeenIds(timedelta(hours=1))
    sizes = []
    for batch in range(60):
        numbers = range(batch * 20_000, (batch + 1) * 20_000)
        assert all(ask(seen, [f"order-{n}" for n in numbers], [n * 20_000 for n in numbers]))
        sizes.append(seen.bytes)
    # An hour holds 180,000 events of 16 bytes; runs of up to an eighth of it are kept as long as any of it is within.
    # The newest thousand have their moments with them.
    assert max(sizes) <= 16 * 180_000 * 1.3 + 8 * dedup.SUPPORT
    assert sizes[-1] <= max(sizes[:20]) * 1.1


YEAR_2099 = 4_070_908_800 * 10**6


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 300)), max_size=20), max_size=12), st.integers(1, 4)
)
def test_every_copy_within_the_window_is_found_whatever_some_clocks_say(
    batches: list[list[tuple[int, int]]], support: int
) -> None:
    """Against the meaning: whoever is not older than the window, behind the `support`-th newest, is remembered."""
    window, known = 50 * HOUR, dict[str, int]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dedup, "SUPPORT", support)
        seen = SeenIds(timedelta(hours=50), lambda: 250 * HOUR)
        for batch in batches:
            # One in six is from far ahead.
            ids = [f"e{hour}" for _, hour in batch]
            when = [YEAR_2099 if kind == 0 else hour * HOUR for kind, hour in batch]
            given_before = dict(known)
            for number, (event_id, new) in enumerate(zip(ids, ask(seen, ids, when), strict=True)):
                assert not (new and event_id in ids[:number])
                latest = sorted(given_before.values())[-support:]
                end = min(latest[0], 250 * HOUR) if len(latest) == support else -(2**62)
                if given_before.get(event_id, -(2**63)) >= end - window:
                    assert not new
                if new:
                    known[event_id] = when[number]


def test_clocks_that_run_ahead_do_not_make_it_forget() -> None:
    now = 100 * HOUR
    seen = SeenIds(timedelta(hours=8), lambda: now)
    few = [f"early-{n}" for n in range(dedup.SUPPORT - 1)]
    assert all(ask(seen, ["a", *few], [2 * HOUR] + [YEAR_2099] * len(few)))
    # However many they are, the window does not end later than now.
    many = [f"later-{n}" for n in range(5 * dedup.SUPPORT)]
    assert ask(seen, ["b"], [97 * HOUR]) == [True]
    assert all(ask(seen, many, [YEAR_2099 + n * HOUR for n in range(len(many))]))
    assert not any(ask(seen, ["b", *few, *many], [98 * HOUR] * (1 + len(few) + len(many))))
    # What is older than the window is still forgotten, and what is far ahead lies in few runs.
    assert ask(seen, ["a"], [98 * HOUR]) == [True]
    assert len(seen._runs()) < 20


def test_a_history_is_remembered_although_a_few_events_in_it_are_dated_later() -> None:
    seen = SeenIds(timedelta(days=30))
    assert all(ask(seen, [f"e{n}" for n in range(5000)], [n * HOUR for n in range(5000)]))
    assert ask(seen, ["odd"], [40_000 * HOUR]) == [True]
    assert all(ask(seen, [f"f{n}" for n in range(5000)], [(5000 + n) * HOUR for n in range(5000)]))
    again = [f"f{n}" for n in range(4000, 5000)]
    assert not any(ask(seen, again, [10_000 * HOUR] * len(again)))
