"""Take a part of a hash-locked requirements file, so that two layers of an image don't hold the same package twice.

``python lock.py without FILE NAME-OR-FILE...`` prints the locked packages of FILE that aren't named by the rest (a
name, or another locked file); ``python lock.py only FILE NAME...`` prints those that are.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(?===)")


def entries(text: str) -> Iterator[tuple[str, str]]:
    """Name and full text (version, marker, hashes) of each locked package; one name may come with several versions."""
    for block in re.split(r"\n(?=\S)", text):
        if match := _NAME.match(block):
            yield canonical(match[0]), block.rstrip("\n")


def canonical(name: str) -> str:
    """The name as the packaging rules compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def names(words: list[str]) -> set[str]:
    """The names in `words`, where a word that ends in ``.txt`` is a locked file and stands for all in it."""
    found: set[str] = set()
    for word in words:
        found |= {n for n, _ in entries(Path(word).read_text())} if word.endswith(".txt") else {canonical(word)}
    return found


def select(how: str, file: str, words: list[str]) -> str:
    """The text of the chosen entries.

    Raises:
        SystemExit: `how` is unknown, or a package to be kept is not locked.
    """
    chosen, locked = names(words), list(entries(Path(file).read_text()))
    if how == "only" and (absent := chosen - {name for name, _ in locked}):
        raise SystemExit(f"{file} doesn't lock {', '.join(sorted(absent))}")
    if how not in ("only", "without"):
        raise SystemExit(__doc__)
    return "\n".join(block for name, block in locked if (name in chosen) == (how == "only")) + "\n"


if __name__ == "__main__":
    sys.stdout.write(select(sys.argv[1], sys.argv[2], sys.argv[3:]))
