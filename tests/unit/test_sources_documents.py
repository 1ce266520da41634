"""A JSON document means the same to every source that reads one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fasttrack.ingest.sources import stream
from fasttrack.ingest.sources.formats import READERS

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=9,
)


def from_a_file(folder: Path, text: bytes) -> dict[str, Any] | None:
    path = folder / "a.jsonl"
    path.write_bytes(text)
    ((fields, raw),) = READERS["jsonl"](pafs.LocalFileSystem(), str(path), 0)
    assert (raw is None) == (fields is not None)
    return fields


@given(st.dictionaries(st.text(max_size=5), VALUES, max_size=4), st.booleans())
def test_a_message_gives_what_was_written(fields: dict[str, Any], ascii: bool) -> None:
    text = json.dumps(fields, ensure_ascii=ascii).encode()
    assert stream._document(text) == fields
    assert stream._document(b"\0\0\0\0\7" + text) == fields


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        (b'{"n": 123456789012345678901234567890}', {"n": 123456789012345678901234567890}),
        (b'{"n": 18446744073709551616}', {"n": 2**64}),
        (b'{"n": 1, "n": 2}', None),
        (b'{"n": {"m": 1, "m": 2}}', None),
        (b'{"n": NaN}', None),
        (b'{"n": Infinity}', None),
        (b'{"n": 01}', None),
        (b'{"n": 1} x', None),
        (b'{"n": "\xff"}', None),
        (b"[1]", None),
        (b"7", None),
        (b"[" * 100_000, None),
        (b'{"n": ' * 100_000, None),
    ],
)
def test_a_line_and_a_message_are_judged_alike(tmp_path: Path, text: bytes, fields: dict[str, Any] | None) -> None:
    assert from_a_file(tmp_path, text) == fields
    assert stream._document(text) == fields
