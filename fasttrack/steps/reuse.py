"""Nothing is computed twice: results of expensive steps, kept under a digest of all that went into them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import orjson

import fasttrack
from fasttrack.progress import note
from fasttrack.steps.frame import Step, write_text
from fasttrack.usecase import UseCase, dump

#: Marks a kept folder as complete.
RESULT = "result.json"


def fingerprint(usecase: UseCase, *inputs: str, parts: Iterable[str], keys: Iterable[str]) -> str:
    """A digest of inputs, of the use case's sections that matter, and of the code that works on them.

    Args:
        usecase: the use case.
        inputs: what else goes in: places that name their content, parameters, the step.
        parts: names of the library's packages whose code makes the result.
        keys: names of the use case's sections that it depends on.
    """
    document = dump(usecase)
    known = {
        "inputs": inputs,
        "usecase": {key: document.get(key) for key in keys},
        "code": {part: code_digest(part) for part in parts},
    }
    return hashlib.sha256(orjson.dumps(known, option=orjson.OPT_SORT_KEYS)).hexdigest()[:24]


@cache
def code_digest(part: str) -> str:
    """A digest of the source files of the package ``fasttrack.<part>``."""
    folder = Path(fasttrack.__file__).parent / part
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def place(at: Step, key: str) -> Path:
    """The folder for what belongs to `key`."""
    return at.folder.parent / ".kept" / key


def recall(at: Step, key: str) -> dict[str, Any] | None:
    """The result that was kept under `key`, if any; the record says ``reused``."""
    path = place(at, key) / RESULT
    at.record["reused"] = path.is_file()
    if not path.is_file():
        return None
    note(f"Nothing has changed since an earlier run: reused ({key[:12]})")
    found: dict[str, Any] = orjson.loads(path.read_bytes())
    return found


def remember(at: Step, key: str, result: dict[str, Any]) -> dict[str, Any]:
    """Keep `result` under `key`; the last thing that a step does, since it marks the folder as complete."""
    text = orjson.dumps(result, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_SERIALIZE_NUMPY).decode()
    write_text(place(at, key) / RESULT, text)
    found: dict[str, Any] = orjson.loads(text)
    return found
