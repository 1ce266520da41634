"""Files as a source: each once, in order, when it is written to its end, and from any row on."""

from __future__ import annotations

import gzip
import json
import os
import re
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fasttrack.errors import ConfigurationError, DataQualityError, UnavailableError
from fasttrack.ingest.contracts import TIMESTAMP
from fasttrack.ingest.sources import donefiles, files
from fasttrack.ingest.sources.donefiles import DoneFiles
from fasttrack.ingest.sources.files import FilesReader
from fasttrack.ingest.sources.formats import READERS, _values
from fasttrack.ingest.sources.message import fit
from fasttrack.ingest.sources.source import Position, Record, Unfinished
from fasttrack.usecase.sources import FilesSource
from fasttrack.usecase.streams import FieldContract
from tests.unit.ingest_usecase import usecase
from tests.unit.s3_server import BUCKET, s3_server

AGES_AGO = 1_600_000_000


def reader(folder: Path, format: str = "jsonl", glob: str = "*", settle: str = "5s", **more: Any) -> FilesReader:
    declared = {"kind": "files", "stream": "placed", "path": str(folder), "format": format, "glob": glob}
    source = FilesSource.model_validate({**declared, "settle": settle, "poll": "1ms", **more})
    return FilesReader(usecase(), "in", source, {})


def write(path: Path, text: str | bytes, age: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    os.utime(path, (AGES_AGO + age, AGES_AGO + age))
    return path


def everything(source: FilesReader, position: Position | None = None) -> tuple[list[Record], Position | None]:
    source.open(position)
    records: list[Record] = []
    while batch := source.read(0):
        records += batch.records
        position = batch.position
    # What Kafka keeps is JSON.
    return records, json.loads(json.dumps(position))


def rows(path: Path, format: str, skip: int = 0) -> list[Any]:
    return list(READERS[format](pafs.LocalFileSystem(), str(path), skip))


def test_files_are_read_in_the_order_of_their_times_and_once(tmp_path: Path) -> None:
    write(tmp_path / "b.jsonl", '{"n": 1}\n', age=2)
    write(tmp_path / "a.jsonl", '{"n": 2}\n{"n": 3}\n', age=5)
    write(tmp_path / "deep/er/c.jsonl", '{"n": 0}', age=1)
    records, position = everything(reader(tmp_path))
    assert [r.fields for r in records] == [{"n": n} for n in range(4)]
    assert [r.identity for r in records] == ["deep/er/c.jsonl:1", "b.jsonl:1", "a.jsonl:1", "a.jsonl:2"]
    assert everything(reader(tmp_path), position)[0] == []
    # A file that is moved here keeps its old time.
    write(tmp_path / "late.jsonl", '{"n": 9}', age=-100)
    assert [r.identity for r in everything(reader(tmp_path), position)[0]] == ["late.jsonl:1"]


@given(cuts=st.lists(st.integers(1, 40), max_size=6), format=st.sampled_from(["csv", "jsonl", "parquet"]))
@settings(max_examples=12, deadline=None)
def test_from_every_position_the_rest_is_read(
    cuts: list[int], format: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("in")
    for number in range(3):
        values = [f"{number}-{row}" for row in range(17)]
        path = folder / f"{number}"
        if format == "parquet":
            pq.write_table(pa.table({"v": values}), path, row_group_size=5)
        else:
            lines = [json.dumps({"v": v}) for v in values] if format == "jsonl" else ["v", *values]
            path.write_text("\n".join(lines))
        os.utime(path, (AGES_AGO + number, AGES_AGO + number))
    whole, _ = everything(reader(folder, format))
    assert len(whole) == 51
    records: list[Record] = []
    position: Position | None = None
    with pytest.MonkeyPatch.context() as patch:
        for cut in [*cuts, 1000]:
            patch.setattr(files, "_BATCH", cut)
            source = reader(folder, format)
            source.open(position)
            if batch := source.read(0):
                records += batch.records
                position = json.loads(json.dumps(batch.position))
            source.close()
    assert records == whole


def test_the_rows_that_are_still_to_come_are_known_whatever_the_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_BATCH", 2)
    for age, name in enumerate(("a", "b", "c")):
        write(tmp_path / name, "{}\n" * 3, age=age)
    write(tmp_path / "broken.gz", b"no archive", age=-1)
    (tmp_path / "fresh").write_text("{}\n")
    source = reader(tmp_path, settle="1h")
    source.open(None)
    rows = {f"{name}:{row}" for name in ("a", "b", "c", "broken.gz", "fresh", "gone") for row in (1, 2, 3)}
    given = {f"gone:{row}" for row in (1, 2, 3)}
    while batch := source.read(0):
        given |= {record.identity for record in batch.records}
        assert source.expected(rows) == rows - given
    assert {path for path, _, _ in (row.partition(":") for row in rows - given)} == {"broken.gz", "fresh"}


def test_what_is_being_written_is_left_alone(tmp_path: Path) -> None:
    fresh = tmp_path / "fresh.jsonl"
    fresh.write_text('{"n": 1}\n')
    for name in (".hidden", "_SUCCESS", "x.tmp", "x.part", "_temporary/0/part-0"):
        write(tmp_path / name, '{"n": 0}\n')
    source = reader(tmp_path, settle="1h")
    source.open(None)
    assert source.read(0) is None
    assert isinstance(source, Unfinished) and source.waiting() and source.lag() == 1
    os.utime(fresh, (AGES_AGO, AGES_AGO))
    time.sleep(0.3)
    batch = source.read(5)
    assert batch is not None and [r.identity for r in batch.records] == ["fresh.jsonl:1"]
    assert source.read(0.3) is None and not source.waiting() and source.lag() == 0


def test_a_file_of_another_clock_settles_when_it_does_not_change(tmp_path: Path) -> None:
    ahead = tmp_path / "ahead.jsonl"
    ahead.write_text('{"n": 1}\n')
    os.utime(ahead, (time.time() + 3600, time.time() + 3600))
    source = reader(tmp_path, settle="400ms")
    source.open(None)
    assert source.read(0) is None and source.waiting()
    batch = source.read(30)
    assert batch is not None and len(batch.records) == 1


def test_a_file_that_changes_between_look_and_read_waits_again(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"n": 1}\n')
    source = reader(tmp_path)
    source.open(None)
    source._list()
    with path.open("a") as file:
        file.write('{"n": 2')
    assert source.read(0) is None and source.waiting()


def test_a_file_that_changes_after_it_was_read_is_told_of(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "a.jsonl", '{"n": 1}\n')
    source = reader(tmp_path)
    assert len(everything(source)[0]) == 1
    write(path, '{"n": 1}\n{"n": 2}\n', age=9)
    time.sleep(0.01)
    assert source.read(0) is None and source.read(0.1) is None
    said = capfd.readouterr().err
    assert said.count("a.jsonl: has changed since it was read; it is not read again.") == 1
    assert dict(source.broken()) == {"a.jsonl": "has changed since it was read."} and source.failures()


def test_a_file_that_goes_half_read_is_told_of_until_it_is_back(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_BATCH", 2)
    path = write(tmp_path / "a.jsonl", "{}\n" * 5)
    whole = reader(tmp_path)
    whole.open(None)
    first = whole.read(0)
    assert first is not None
    path.unlink()
    later = reader(tmp_path)
    records, position = everything(later, first.position)
    assert (
        records == []
        and position is not None
        and dict(later.broken()) == {"a.jsonl": "is gone, and only its first 2 rows were read."}
    )
    assert "a.jsonl: is gone, and only its first 2 rows were read. Put it back" in capfd.readouterr().err
    assert len(later.failures()) >= 1
    write(path, "{}\n" * 5)
    again = reader(tmp_path)
    rest, _ = everything(again, position)
    assert [record.identity for record in rest] == [f"a.jsonl:{row}" for row in (3, 4, 5)] and again.broken() == {}
    # Nothing more of it is wanted.
    write(path, "")
    given_up = reader(tmp_path)
    assert everything(given_up, position)[0] == [] and given_up.broken() == {}


def test_a_truncated_file_is_told_of_tried_again_and_stops_no_other(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pq.write_table(pa.table({"n": [1, 2, 3]}), tmp_path / "whole")
    good = (tmp_path / "whole").read_bytes()
    (tmp_path / "whole").unlink()
    broken = write(tmp_path / "a.parquet", good[:-20], age=1)
    write(tmp_path / "b.parquet", good, age=2)
    source = reader(tmp_path, "parquet")
    records, position = everything(source)
    assert [r.identity for r in records] == [f"b.parquet:{row}" for row in (1, 2, 3)]
    assert list(source.broken()) == ["a.parquet"] and not source.waiting() and source.lag() == 1
    tried = len(source.failures())
    assert tried >= 1 and source.failures() == []
    while not source.failures():
        assert source.read(0) is None
    assert "a.parquet: can't be read" in capfd.readouterr().err
    write(broken, good, age=3)
    assert [r.identity for r in everything(reader(tmp_path, "parquet"), position)[0]] == [
        f"a.parquet:{row}" for row in (1, 2, 3)
    ]


def test_a_cut_archive_goes_on_where_it_broke(tmp_path: Path) -> None:
    text = "".join(json.dumps({"n": n, "pad": os.urandom(300).hex()}) + "\n" for n in range(4000))
    packed = gzip.compress(text.encode())
    path = write(tmp_path / "a.jsonl.gz", packed[: len(packed) // 2])
    source = reader(tmp_path)
    first, position = everything(source)
    assert 0 < len(first) < 4000 and list(source.broken()) == ["a.jsonl.gz"]
    write(path, packed, age=1)
    rest, _ = everything(reader(tmp_path), position)
    assert [r.identity for r in first + rest] == [f"a.jsonl.gz:{row}" for row in range(1, 4001)]


def test_csv_rows_that_are_not_well_formed_are_raw_and_stop_no_other(tmp_path: Path) -> None:
    lines = [b'\xef\xbb\xbfa,b\r\n', b"1,2\r\n", b"1,2,3\r\n", b'"x\n', b"y\",2\r\n", b'"open,2\r\n', b"3,4\r\n",
             b"\r\n", b"\xff,2\r\n", b'a"b,1\r\n', b'"a"b,1\r\n', b"5,6"]  # fmt: skip
    path = write(tmp_path / "a.csv", b"".join(lines))
    assert rows(path, "csv") == [
        ({"a": "1", "b": "2"}, None),
        (None, b"1,2,3"),
        ({"a": "x\ny", "b": "2"}, None),
        (None, b'"open,2'),
        ({"a": "3", "b": "4"}, None),
        (None, b"\xff,2"),
        ({"a": 'a"b', "b": "1"}, None),
        (None, b'"a"b,1'),
        ({"a": "5", "b": "6"}, None),
    ]
    for skip in range(10):
        assert rows(path, "csv", skip) == rows(path, "csv")[skip:]


@given(st.lists(st.tuples(*[st.text(st.characters(exclude_categories=["Cs"]), max_size=9)] * 2)))
@settings(deadline=None)
def test_csv_gives_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[str, str]]
) -> None:
    quoted = ["a,b", *(",".join('"' + c.replace('"', '""') + '"' for c in row) for row in cells)]
    path = write(tmp_path_factory.mktemp("csv") / "a.csv", "\r\n".join(quoted))
    assert [fields for fields, _ in rows(path, "csv")] == [dict(zip("ab", row, strict=True)) for row in cells]


@pytest.mark.parametrize("first", [b"a,a\n1,2\n", b"a,\n1,2\n", b"\n1,2\n", b"\xff,b\n1,2\n", b'"a,b\n1,2\n'])
def test_csv_without_names_is_broken(tmp_path: Path, first: bytes) -> None:
    path = write(tmp_path / "a.csv", first)
    with pytest.raises(DataQualityError, match=r"a\.csv"):
        rows(path, "csv")
    source = reader(tmp_path, "csv")
    assert everything(source)[0] == [] and list(source.broken()) == ["a.csv"]


def test_an_empty_file_is_read(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", b"")
    source = reader(tmp_path, "csv")
    records, position = everything(source)
    assert (records, dict(source.broken())) == ([], {})
    assert position is not None and "a.csv" in DoneFiles(position["done"])


def test_lines_that_are_no_json_objects_are_raw(tmp_path: Path) -> None:
    lines = [b'{"n": 123456789012345678901234567890}', b"{", b"[1]", b'{"n": NaN}', b'{"n": 1, "n": 2}', b"\xff", b"",
             b"[" * 100_000]  # fmt: skip
    found = rows(write(tmp_path / "a.jsonl", b"\r\n".join(lines)), "jsonl")
    assert found == [({"n": 123456789012345678901234567890}, None), *((None, line) for line in lines[1:] if line)]


def test_parquet_times_keep_their_nanoseconds_for_the_drain_to_refuse(tmp_path: Path) -> None:
    moment = pa.timestamp("ns", "UTC")
    pq.write_table(pa.table({"t": pa.array([1_000], moment)}), tmp_path / "micro")
    pq.write_table(pa.table({"t": pa.array([1_001, 1_000, None], moment)}), tmp_path / "nano")
    assert rows(tmp_path / "micro", "parquet")[0][0]["t"].isoformat() == "1970-01-01T00:00:00.000001+00:00"
    # Its neighbours stay what they are.
    assert [fields["t"] for fields, _ in rows(tmp_path / "nano", "parquet")] == [
        "1970-01-01 00:00:00.000001001Z", rows(tmp_path / "micro", "parquet")[0][0]["t"], None
    ]  # fmt: skip


@given(
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from(["s", "ms", "us", "ns"]),
    st.sampled_from([None, "UTC", "Europe/Warsaw", "Mars/Base"]),
)
@settings(deadline=None, max_examples=200)
def test_any_time_of_a_parquet_file_is_a_time_or_a_text_that_is_none(number: int, unit: str, zone: str | None) -> None:
    column = pa.array([number, 0], pa.timestamp(unit, zone))
    for values in (_values(column), [row["t"][0] for row in _values(pa.array([{"t": [t]} for t in column]))]):
        found, epoch = (fit(FieldContract(type="timestamp"), value, False) for value in values)
        assert epoch == ("1970-01-01T00:00:00Z" if zone else "1970-01-01T00:00:00")
        if re.fullmatch(TIMESTAMP, found):
            since = datetime.fromisoformat(found) - datetime(1970, 1, 1, tzinfo=UTC)
            assert since == timedelta(
                microseconds=number * 10**6 // {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
            )


def test_a_parquet_value_that_python_does_not_know_stops_nothing(tmp_path: Path) -> None:
    table = pa.table({
        "day": pa.array([10**8, 0], pa.int32()).cast(pa.date32()),
        "took": pa.array([2**62, 1], pa.duration("s")),
        "text": pa.StringArray.from_buffers(2, pa.py_buffer(np.array([0, 2, 3], np.int32)), pa.py_buffer(b"\xff\xfea")),
    })  # fmt: skip
    pq.write_table(table, write(tmp_path / "a.parquet", b""))
    os.utime(tmp_path / "a.parquet", (AGES_AGO, AGES_AGO))
    source = reader(tmp_path, "parquet")
    records, _ = everything(source)
    assert [record.fields for record in records] == [
        {"day": "100000000 date32[day]", "took": "4611686018427387904 duration[s]", "text": "\udcff\udcfe"},
        {"day": date(1970, 1, 1), "took": timedelta(seconds=1), "text": "a"},
    ]
    assert source.broken() == {}


def test_names_are_chosen_by_a_pattern(tmp_path: Path) -> None:
    for name in ("a.csv", "b.txt", "2020/c.csv"):
        write(tmp_path / name, "{}\n")
    assert [r.identity for r in everything(reader(tmp_path, glob="*.csv"))[0]] == ["2020/c.csv:1", "a.csv:1"]
    assert [r.identity for r in everything(reader(tmp_path, glob="2020/*"))[0]] == ["2020/c.csv:1"]


def test_there_is_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is no folder"):
        reader(tmp_path / "nowhere").open(None)


@given(st.sets(st.text(max_size=20), max_size=30))
def test_files_that_were_read_are_remembered_in_twelve_bytes_each(names: set[str]) -> None:
    done = DoneFiles()
    for name in names:
        done.add(name, "1/2")
    kept = DoneFiles(done.pack())
    assert len(kept) == len(names) and len(done.pack()) <= 16 * len(names) + 4
    assert all(name in kept and not kept.changed(name, "1/2") and kept.changed(name, "1/3") for name in names)


def test_only_too_many_files_make_it_forget_those_that_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MOST", 3)
    assert donefiles.MOST * 16 < 900_000
    for name in "abc":
        write(tmp_path / name, "{}\n")
    records, position = everything(reader(tmp_path))
    assert len(records) == 3
    (tmp_path / "a").unlink()
    # A folder may look empty for a moment (a mount that is missing): nothing is forgotten then.
    _, position = everything(reader(tmp_path), position)
    write(tmp_path / "a", "{}\n")
    assert everything(reader(tmp_path), position)[0] == []
    (tmp_path / "b").unlink()
    write(tmp_path / "d", "{}\n")
    records, position = everything(reader(tmp_path), position)
    assert [r.identity for r in records] == ["d:1"]
    write(tmp_path / "e", "{}\n")
    with pytest.raises(ConfigurationError, match="more than 3 files"):
        everything(reader(tmp_path), position)


def test_objects_of_s3_are_files_too() -> None:
    objects = {
        "in/2020/a.jsonl.gz": (gzip.compress(b'{"n": 1}\n{"n": 2}\n'), AGES_AGO + 1),
        "in/b.jsonl": (b'{"n": 0}\n', AGES_AGO),
        "in/fresh.jsonl": (b'{"n": 9}\n', time.time() + 3600),
        "in/_tmp/c.jsonl": (b"{}", AGES_AGO),
        "other/d.jsonl": (b"{}", AGES_AGO),
    }
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    with s3_server(objects) as address:
        environment = {**keys, "AWS_ENDPOINT_URL": address}
        declared = {"kind": "files", "stream": "placed", "path": f"s3://{BUCKET}/in/", "format": "jsonl", "poll": "1ms"}
        source = FilesReader(usecase(), "in", FilesSource.model_validate(declared), environment)
        records, position = everything(source)
        assert [(r.identity, r.fields) for r in records] == [
            ("b.jsonl:1", {"n": 0}), ("2020/a.jsonl.gz:1", {"n": 1}), ("2020/a.jsonl.gz:2", {"n": 2})
        ]  # fmt: skip
        assert source.waiting()
        objects["in/fresh.jsonl"] = (b'{"n": 9}\n', AGES_AGO)
        again = FilesReader(usecase(), "in", FilesSource.model_validate(declared), environment)
        assert [r.identity for r in everything(again, position)[0]] == ["fresh.jsonl:1"]
        nowhere = FilesSource.model_validate({**declared, "path": "s3://nowhere/in"})
        with pytest.raises(ConfigurationError, match="is no bucket"):
            everything(FilesReader(usecase(), "in", nowhere, environment))
        closed = {**environment, "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
        with pytest.raises(UnavailableError, match="can't be listed"):
            everything(FilesReader(usecase(), "in", nowhere, closed))
