"""A drain without end puts small files together, and nothing that goes wrong there stops it."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from random import Random

import pytest

from fasttrack.ingest import upkeep
from fasttrack.ingest.upkeep import compacting
from fasttrack.lake.commits import file_names
from fasttrack.lake.compaction import AUTOMATIC, Compaction
from fasttrack.lake.tables import load
from tests.unit.lake_rows import content, fill, new_table

_SECONDS = 60.0


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "EVERY_SECONDS", 0.05)


def wait_for_one(done: list[Compaction]) -> None:
    deadline = time.monotonic() + _SECONDS
    while not any(one.written for one in done):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_small_files_are_put_together_once_there_are_many(tmp_path: Path) -> None:
    few, many = new_table(tmp_path / "few"), new_table(tmp_path / "many")
    fill(few, Random(1), files=AUTOMATIC.least - 1, partitions=1)
    fill(many, Random(1), files=AUTOMATIC.least + 1, partitions=1, most=2)
    before, done = content(many), list[Compaction]()
    with compacting([few, many], done.append):
        wait_for_one(done)
    assert content(many).equals(before)
    assert len(file_names(load(many))) <= 2
    assert len(file_names(load(few))) == AUTOMATIC.least - 1


def test_a_table_that_fails_is_told_and_the_others_are_still_tended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone, many = new_table(tmp_path / "gone"), new_table(tmp_path / "many")
    fill(many, Random(1), files=AUTOMATIC.least, partitions=1, most=2)
    shutil.rmtree(gone)
    done = list[Compaction]()
    with compacting([gone, many], done.append):
        wait_for_one(done)
    assert "small files are left for now: " in capsys.readouterr().err


def test_a_fault_of_the_program_itself_is_raised_at_the_end(tmp_path: Path) -> None:
    path = new_table(tmp_path)

    def broken(_: Compaction) -> None:
        raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"), compacting([path], broken):
        time.sleep(0.5)
