"""Dead letters are found by what is asked; fixes, places and ranges are taken as written or refused with the reason."""

from __future__ import annotations

import itertools
import sys
import tempfile
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fasttrack.cli.deadletters import hex_dump
from fasttrack.cli.main import main
from fasttrack.errors import ConfigurationError, NotFoundError
from fasttrack.ingest.broker import Offsets, Topic
from fasttrack.ingest.deadletters import Wanted, letter, parse_place
from fasttrack.ingest.fix import Fix
from fasttrack.ingest.holes import runs
from fasttrack.ingest.listing import search
from fasttrack.ingest.outbox import partition_of
from fasttrack.ingest.plan import partitions
from fasttrack.ingest.rowcheck import Rejection
from fasttrack.ingest.spans import Stretch, parse_from, parse_range, spans
from fasttrack.lake.append import Ledger
from fasttrack.lake.schemas import DEAD_LETTERS, REPLAYS
from fasttrack.lake.tables import dead_letters_path, ensure, replays_path
from fasttrack.settings import Settings
from tests.unit.ingest_usecase import YAML, usecase

SHOP = usecase()
START = datetime(2020, 1, 1, tzinfo=UTC)


def row(offset: int, stream: str, partition: int, reason: str, value: bytes, hour: int) -> dict[str, Any]:
    moment = START + timedelta(hours=hour)
    values = (stream, f"shop.{stream}", stream, partition, offset, b"k", value, reason, "", "1", moment)
    return dict(zip(DEAD_LETTERS.names, values, strict=True))


ROWS = st.lists(
    st.tuples(
        st.sampled_from(["placed", "paid"]), st.integers(0, 1), st.sampled_from(["empty", "too large"]),
        st.binary(max_size=3), st.integers(0, 5),
    ),
    max_size=12,
)  # fmt: skip
ASKED = st.fixed_dictionaries(
    {},
    optional={
        "stream": st.sampled_from(["placed", "paid"]),
        "reason": st.sampled_from(["empty", "too large"]),
        "partition": st.integers(0, 1),
        "offsets": st.tuples(st.integers(0, 6), st.integers(0, 12)),
        "since": st.integers(0, 5).map(lambda hour: START + timedelta(hours=hour)),
        "until": st.integers(0, 5).map(lambda hour: START + timedelta(hours=hour)),
        "contains": st.binary(min_size=1, max_size=2),
    },
)


def fits(one: dict[str, Any], asked: dict[str, Any]) -> bool:
    first, last = asked.get("offsets", (0, 99))
    return (
        all(one[name] == asked[name] for name in ("stream", "reason", "partition") if name in asked)
        and first <= one["offset"] <= last
        and asked.get("since", START) <= one["ingested_at"]
        and one["ingested_at"] < asked.get("until", START + timedelta(days=9))
        and asked.get("contains", b"") in one["value"]
    )


@settings(max_examples=40, deadline=None)
@given(ROWS, ASKED, st.integers(0, 12), st.sets(st.integers(0, 11)))
def test_a_search_finds_what_fits_and_counts_it(
    rows: list[tuple[Any, ...]], asked: dict[str, Any], limit: int, again: set[int]
) -> None:
    made = [row(offset, *one) for offset, one in enumerate(rows)]
    with tempfile.TemporaryDirectory() as folder:
        places = Settings(lake=folder)
        ensure(dead_letters_path(places, SHOP), DEAD_LETTERS)
        for number, part in enumerate((made[:5], made[5:])):
            if part:
                Ledger(dead_letters_path(places, SHOP), f"app {number}").append(
                    pa.Table.from_pylist(part, DEAD_LETTERS), 1
                )
        done = [one for one in made if one["offset"] in again]
        if done:
            ensure(replays_path(places, SHOP), REPLAYS)
            rows_done = [{**one, "value": None, "state": "done", "replayed_at": START} for one in done]
            Ledger(replays_path(places, SHOP), "replays").append(pa.Table.from_pylist(rows_done, REPLAYS), 2)
        found = search(SHOP, places, Wanted(**asked), limit=limit)

    wanted = [one for one in made if fits(one, asked)]
    assert found.matched == len(wanted) == sum(group["count"] for group in found.groups)
    counted = {(group["stream"], group["reason"]): group["count"] for group in found.groups}
    assert counted == Counter((one["stream"], one["reason"]) for one in wanted)
    assert sum(group["replayed"] for group in found.groups) == sum(one["offset"] in again for one in wanted)
    newest = sorted((one["ingested_at"] for one in wanted), reverse=True)[:limit]
    assert [one["ingested_at"] for one in found.letters] == newest
    assert all((one["replayed_at"] is not None) == (one["offset"] in again) for one in found.letters)


def test_one_is_found_by_its_stream_or_topic(tmp_path: Path) -> None:
    places = Settings(lake=str(tmp_path))
    ensure(dead_letters_path(places, SHOP), DEAD_LETTERS)
    rows = [row(7, "placed", 1, "empty", b"", 0), row(8, "placed", 1, "empty", b"x", 0)]
    Ledger(dead_letters_path(places, SHOP), "app").append(pa.Table.from_pylist(rows, DEAD_LETTERS), 1)
    for text in ("placed:1:8", "shop.placed/1/8"):
        assert letter(SHOP, places, parse_place(text)).value == b"x"
    with pytest.raises(NotFoundError, match="is no dead letter"):
        letter(SHOP, places, ("placed", 0, 8))
    for wrong in ("placed:one:8", f"placed:0:{10**20}", f"placed:{2**31}:0", "placed:0:" + 5000 * "9"):
        with pytest.raises(ConfigurationError, match="is no place"):
            parse_place(wrong)
    with pytest.raises(NotFoundError, match="is no dead letter"):
        letter(SHOP, places, parse_place(f"placed:{2**31 - 1}:{2**63 - 1}"))
    with pytest.raises(ConfigurationError, match="nothing to group by"):
        search(SHOP, places, Wanted(), by="value")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("show", f"placed:0:{10**20}"), "is no place"),
        (("list", "--offset-range", f"0-{10**20}"), "is no range"),
        (("replay", "--offset-range", "9-5"), "is no range"),
        (("list", "--since", "9999-12-31T23:59:59-23:59"), "is no moment"),
        (("list", "--partition", str(2**31)), "less than or equal to"),
        (("list", "--limit", str(10**20)), "less than or equal to"),
    ],
)
def test_what_no_table_can_hold_is_refused_with_the_reason(
    words: tuple[str, ...],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "usecase.yaml").write_text(YAML.format(name="shop", partitions=3, source="a:b"))
    places = Settings(lake=str(tmp_path))
    ensure(dead_letters_path(places, SHOP), DEAD_LETTERS)
    for name, value in places.to_environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.setattr(sys, "argv", ["fasttrack", "deadletters", *words, "-u", str(tmp_path / "usecase.yaml")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2 and said in capsys.readouterr().err


FIX = """
def good(value, key): return value + b"!"
def both(value, key): return value, b"new"
def none(value, key): return None
def odd(value, key): return "text"
def fails(value, key): return {}[key]
"""


def test_a_fix_gives_bytes_or_the_reason_why_not(tmp_path: Path) -> None:
    file = tmp_path / "mend.py"
    file.write_text(FIX)
    given = {name: Fix(f"{file}:{name}").mend(b"v", b"k") for name in ("good", "both", "none", "odd", "fails")}
    assert given == {
        "good": (b"v!", b"k"),
        "both": (b"v", b"new"),
        "none": Rejection("not fixed", "the fix function gives None"),
        "odd": Rejection("fix failed", "gives str, not bytes, (value, key) or None"),
        "fails": Rejection("fix failed", "KeyError: b'k'"),
    }
    assert Fix(f"{file}:good").mend(None, None) == (b"!", None)
    broken = tmp_path / "broken.py"
    broken.write_text("1 / 0")
    wrong = (
        (f"{file}:nobody", "no function"),
        ("mend.py:good", "no Python file"),
        (f"{broken}:f", "ZeroDivisionError"),
    )
    for text, said in wrong:
        with pytest.raises(ConfigurationError, match=said):
            Fix(text)


@given(st.lists(st.binary(), min_size=1), st.integers(1, 64))
def test_a_key_goes_where_a_replay_of_history_sends_it(keys: list[bytes], count: int) -> None:
    assert [partition_of(count, key) for key in keys] == partitions(pa.array(keys, pa.binary()), count).tolist()


@given(st.sets(st.integers(0, 200)), st.integers(1, 20))
def test_runs_hold_all_and_lie_further_apart_than_near(offsets: set[int], near: int) -> None:
    found = runs(np.array(sorted(offsets), np.int64), near)
    assert offsets <= {offset for first, last in found for offset in range(first, last + 1)}
    assert all(first in offsets and last in offsets for first, last in found)
    assert all(after[0] - before[1] > near for before, after in itertools.pairwise(found))


def test_ranges_are_written_and_held_against_the_topics() -> None:
    assert parse_from(["0:5", "2:0"], "placed") == [Stretch("placed", 0, 5), Stretch("placed", 2, 0)]
    assert parse_range(["shop.placed:1:5-9"]) == [Stretch("shop.placed", 1, 5, 9)]
    for wrong in ("placed:0:9-5", "placed:0:5", "0:5-9", f"placed:0:1-{2**63}", f"placed:{2**31}:1-2"):
        with pytest.raises(ConfigurationError, match="is no range"):
            parse_range([wrong])
    with pytest.raises(ConfigurationError, match="is no place"):
        parse_from(["0"], "placed")
    for large in (f"0:{2**63}", f"{2**31}:0", "0:" + 5000 * "9"):
        with pytest.raises(ConfigurationError, match="is no place"):
            parse_from([large], "placed")

    topics = {"shop.placed": Topic("shop.placed", "id", 2)}
    held = {("shop.placed", 0): Offsets(3, 10), ("shop.placed", 1): Offsets(0, 0)}
    assert spans(SHOP, topics, held) == {"shop.placed": [(3, 10), (0, 0)]}
    assert spans(SHOP, topics, held, [Stretch("placed", 0, 4, 6)]) == {"shop.placed": [(4, 7), (0, 0)]}
    assert spans(SHOP, topics, held, [Stretch("placed", 0, 10)]) == {"shop.placed": [(10, 10), (0, 0)]}
    for stretches, said in (
        ([Stretch("placed", 0, 2, 6)], "holds offsets 3 to 9"),
        ([Stretch("placed", 0, 3, 10)], "holds offsets 3 to 9"),
        ([Stretch("placed", 1, 0, 0)], "holds nothing"),
        ([Stretch("placed", 0, 3, 4), Stretch("placed", 0, 6, 7)], "named twice"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            spans(SHOP, topics, held, stretches)


@given(st.binary(max_size=70))
def test_a_dump_shows_every_byte(value: bytes) -> None:
    lines = hex_dump(value).splitlines()
    assert b"".join(bytes.fromhex(line[10:58]) for line in lines) == value
