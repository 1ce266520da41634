"""Which files were read: twelve bytes for each, so that tens of thousands fit into one checkpoint."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Collection, Iterator

_NAME, _STATE = 8, 4

#: How many files are remembered: 640 kB of a checkpoint, below the megabyte that Kafka takes by default.
MOST = 40_000


class DoneFiles:
    """The files that were read, and what they were like then.

    A high-water mark of time and name would be smaller, but a file that is moved or copied here with its old time would
    stay unread for ever. So every name is remembered, by a hash.
    """

    def __init__(self, packed: str = "") -> None:
        raw = base64.b64decode(packed)
        size = _NAME + _STATE
        self._states = {raw[at : at + _NAME]: raw[at + _NAME : at + size] for at in range(0, len(raw), size)}

    def __len__(self) -> int:
        return len(self._states)

    def __contains__(self, path: str) -> bool:
        return _hash(path, _NAME) in self._states

    def add(self, path: str, state: str) -> None:
        """Remember a file; `state` tells one content from another (size and time)."""
        self._states[_hash(path, _NAME)] = _hash(state, _STATE)

    def changed(self, path: str, state: str) -> bool:
        """Whether a file that was read is not like it was then."""
        return self._states.get(_hash(path, _NAME), b"") != _hash(state, _STATE)

    def keep(self, paths: Collection[str]) -> None:
        """Forget all files but these."""
        names = {_hash(path, _NAME) for path in paths}
        self._states = {name: state for name, state in self._states.items() if name in names}

    def pack(self) -> str:
        """What the constructor takes."""
        return base64.b64encode(b"".join(self._pieces())).decode()

    def _pieces(self) -> Iterator[bytes]:
        for name, state in self._states.items():
            yield name + state


def _hash(text: str, size: int) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=size).digest()
