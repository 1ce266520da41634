"""Files of a fit: canonical JSON, written whole or not at all. Light: no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from fasttrack.errors import StorageError


def dump_json(document: Any) -> bytes:
    """Canonical JSON: sorted keys, two spaces, a newline at the end; NaN becomes null."""
    options = orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY
    return orjson.dumps(document, option=options)


def write_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        StorageError: the disk refused it.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        raise StorageError(
            f"can't be written: {error.strerror}.", where=str(path), fix="Free disk space, or choose another folder."
        ) from error
