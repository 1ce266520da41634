"""A drain worker's process leaves out what only makes its start slow."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fasttrack.ingest.process import Without

_START = """
import sys
from fasttrack.ingest.process import Without
sys.meta_path.insert(0, Without("pandas"))
import fasttrack.ingest.work
import pyarrow as pa
pa.scalar(1.5), pa.array([1, 2]), pa.array([[1.0], None])
assert "pandas" not in sys.modules, "pandas was imported"
"""


def test_a_worker_never_imports_pandas() -> None:
    subprocess.run([sys.executable, "-c", _START], check=True)


def test_what_is_left_out_looks_as_if_it_were_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", [Without("colorsys"), *sys.meta_path])
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    with pytest.raises(ModuleNotFoundError, match="colorsys is left out"):
        __import__("colorsys")
    __import__("wave")
