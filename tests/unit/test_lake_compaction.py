"""Compaction changes how rows lie in files, and nothing else."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from deltalake import Schema, write_deltalake
from hypothesis import given, settings
from hypothesis import strategies as st

from fasttrack.errors import IntegrityError, StorageError
from fasttrack.lake import compaction as module
from fasttrack.lake.append import Ledger, statistics
from fasttrack.lake.commits import file_names
from fasttrack.lake.compaction import AUTOMATIC, Policy, compact, groups
from fasttrack.lake.datafiles import DataFile, data_files
from fasttrack.lake.rewrite import _GROUP_ROWS
from fasttrack.lake.tables import load, read
from tests.unit.lake_rows import SCHEMA, content, fill, marks, new_table, on_disk, rows

_KB = 2**10
POLICIES = st.builds(
    Policy, target=st.sampled_from([_KB, 8 * _KB, 32 * _KB, 2**27]), least=st.integers(1, 5), tiered=st.booleans()
)


@pytest.fixture
def table(tmp_path: Path) -> str:
    path = new_table(tmp_path)
    fill(path, Random(1), files=12)
    return path


def stats_of(path: str) -> dict[str, Any]:
    """The statistics in the log of each file that the table has."""
    found = {}
    for log in sorted(Path(path, "_delta_log").glob("*.json")):
        for line in log.read_text().splitlines():
            if add := json.loads(line).get("add"):
                found[add["path"]] = json.loads(add["stats"])
    return {name: found[name] for name in file_names(load(path))}


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32), steps=st.lists(st.one_of(st.integers(1, 6), POLICIES), min_size=1, max_size=5))
def test_rows_marks_order_and_statistics_are_those_of_a_table_that_was_never_compacted(
    seed: int, steps: list[int | Policy]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        plain, compacted = new_table(Path(folder, "plain")), new_table(Path(folder, "compacted"))
        for number, step in enumerate(steps):
            if isinstance(step, int):
                for path in (plain, compacted):
                    fill(path, Random(seed + number), step)
            else:
                before = len(file_names(load(compacted)))
                done = compact(compacted, step)
                assert len(file_names(load(compacted))) == before - done.replaced + done.written
        assert content(compacted).equals(content(plain))
        assert marks(compacted) == marks(plain)
        for name, stats in stats_of(compacted).items():
            held = pq.read_table(Path(compacted, name), schema=SCHEMA)
            assert stats == json.loads(json.dumps(statistics(held)))
            assert held["_partition"].to_pylist() == [held["_partition"][0].as_py()] * len(held)
            offsets = held["_offset"].to_pylist()
            assert offsets == sorted(offsets)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_whatever_is_asked_for_a_compacted_table_answers_as_before(seed: int) -> None:
    chance = Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        path = new_table(Path(folder))
        fill(path, chance, files=8)
        everything = content(path)
        compact(path, Policy(target=4 * _KB))
        dataset = load(path).to_pyarrow_dataset()
        for name in SCHEMA.names:
            values = [value for value in everything[name].to_pylist() if value is not None]
            wheres = [ds.field(name).is_null(), ~ds.field(name).is_null()]
            if values and name != "raw":
                value = pa.scalar(chance.choice(values), SCHEMA.field(name).type)
                wheres += [ds.field(name) == value, ds.field(name) != value]
                if name != "flag":
                    wheres += [ds.field(name) < value, ds.field(name) >= value]
            for where in wheres:
                order = [("_partition", "ascending"), ("_offset", "ascending")]
                found = dataset.to_table(filter=where).sort_by(order)
                assert found.equals(everything.filter(where)), (name, where)


def test_it_says_that_no_data_changed_and_older_versions_stay_as_they_were(table: str) -> None:
    version, before = load(table).version(), content(table)
    done = compact(table)
    assert (done.replaced, done.written, done.rows, done.lost) == (12, 2, len(before), 0)
    assert content(table, version).equals(before)
    changes = [
        action
        for log in Path(table, "_delta_log").glob("*.json")
        if int(log.stem) > version
        for line in log.read_text().splitlines()
        for kind, action in json.loads(line).items()
        if kind in ("add", "remove")
    ]
    assert len(changes) == 14
    assert not any(action["dataChange"] for action in changes)
    assert compact(table).replaced == 0


def test_a_dry_run_says_what_would_be_done_and_does_nothing(table: str) -> None:
    version, files = load(table).version(), on_disk(table)
    told: list[int] = []
    would = compact(table, dry_run=True, advance=told.append)
    assert (load(table).version(), on_disk(table)) == (version, files)
    done = compact(table)
    assert (would.replaced, would.written, would.rows) == (done.replaced, done.written, done.rows)
    assert sum(told) == done.replaced


def file(first: int, size: int, source: int = 0) -> DataFile:
    return DataFile(f"{source}-{first:06d}", size, 1, ("topic", source), first)


@given(
    st.lists(st.tuples(st.integers(1, 150), st.integers(0, 2)), max_size=60),
    st.integers(1, 6),
    st.booleans(),
)
def test_groups_are_neighbours_of_one_partition_that_fit(
    sizes: list[tuple[int, int]], least: int, tiered: bool
) -> None:
    files = [file(number, size, source) for number, (size, source) in enumerate(sizes)]
    policy = Policy(target=100, least=least, tiered=tiered)
    found = groups(Random(7).sample(files, len(files)), policy)
    assert len([one for group in found for one in group]) == len({one for group in found for one in group})
    for group in found:
        assert len(group) >= max(2, least)
        assert sum(one.bytes for one in group) <= 100
        of_source = [one for one in files if one.source == group[0].source]
        start = of_source.index(group[0])
        assert of_source[start : start + len(group)] == group


def test_a_long_drain_copies_each_row_a_few_times_and_keeps_few_files() -> None:
    held: list[DataFile] = []
    copied = 0
    for number in range(4096):
        held.append(file(number, 1))
        for group in groups(held, AUTOMATIC):
            size = sum(one.bytes for one in group)
            copied += size
            held = [one for one in held if one not in group] + [file(group[0].first, size)]
    assert copied <= 6 * 4096
    assert len(held) <= 2 * AUTOMATIC.least
    assert sum(one.bytes for one in held) == 4096


def test_a_file_of_the_right_size_is_not_touched(tmp_path: Path) -> None:
    path = new_table(tmp_path)
    ledger = Ledger(path, "app:0")
    ledger.append(rows(Random(0), 0, 0, 3000, empty=0), 3000)
    (big,) = data_files(load(path))
    for offset in range(3000, 3003):
        ledger.append(rows(Random(offset), 0, offset, 1), offset + 1)
    done = compact(path, Policy(target=int(big.bytes / 0.76)))
    assert (done.replaced, done.written) == (3, 1)
    assert big.name in file_names(load(path))


def test_a_file_of_many_row_groups_is_streamed_and_its_statistics_span_them(tmp_path: Path) -> None:
    path = new_table(tmp_path)
    ledger, each = Ledger(path, "app:0"), _GROUP_ROWS // 2 + 1
    for number in range(5):
        ledger.append(rows(Random(number), 0, number * each, each, empty=0.99), (number + 1) * each)
    before = content(path)
    assert compact(path).written == 1
    (name,) = file_names(load(path))
    assert pq.read_metadata(Path(path, name)).num_row_groups == 3
    assert content(path).equals(before)
    assert stats_of(path)[name] == json.loads(json.dumps(statistics(pq.read_table(Path(path, name), schema=SCHEMA))))


def test_columns_that_came_later_are_null_in_older_rows(table: str) -> None:
    load(table).alter.add_columns(Schema.from_arrow(pa.schema([("late", pa.string())])).fields)
    ledger = Ledger(table, "app:0")
    first = ledger.mark or 0
    new = rows(Random(3), 0, first, 2).append_column("late", pa.array(["x", None]))
    ledger.append(new, first + 2)
    before = content(table)
    compact(table)
    assert content(table).equals(before)
    assert len(read(table, where=ds.field("late") == "x")) == 1
    assert len(read(table, where=ds.field("late").is_null())) == len(before) - 1


def test_files_of_other_writers_get_whole_statistics(table: str) -> None:
    strange = rows(Random(5), 0, 10_000, 30, empty=0).set_column(0, "text", pa.array(["long " * 100] * 30))
    write_deltalake(table, strange, mode="append")
    before = content(table)
    compact(table)
    assert content(table).equals(before)
    assert len(read(table, where=ds.field("text") == "long " * 100)) == 30
    assert {one.source for one in data_files(load(table))} == {("topic", 0), ("topic", 1)}


def test_a_table_that_another_program_changed_is_left_alone(tmp_path: Path) -> None:
    path = str(tmp_path / "parted")
    write_deltalake(path, rows(Random(1), 0, 0, 3), partition_by=["_partition"])
    with pytest.raises(StorageError, match="another program"):
        compact(path)


def test_a_damaged_count_is_refused_before_anything_changes(table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    version, files = load(table).version(), on_disk(table)
    real = module.rewrite

    def forgetful(path: str, name: str, inputs: list[str], *others: Any) -> Any:
        return real(path, name, inputs[1:], *others)

    monkeypatch.setattr(module, "rewrite", forgetful)
    with pytest.raises(IntegrityError, match="their commits say"):
        compact(table)
    assert (load(table).version(), on_disk(table)) == (version, files)
