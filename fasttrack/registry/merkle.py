"""Merkle trees as in RFC 6962, section 2.1: leaves are only ever added, and each prefix has one root."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from fasttrack.errors import IntegrityError

HASH_BYTES = 32


def leaf_hash(entry: bytes) -> bytes:
    """The hash of an entry."""
    return hashlib.sha256(b"\x00" + entry).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


class Tree:
    """A tree of which only the roots of its complete subtrees are kept, largest first: 32 bytes a bit of its size.

    Args:
        size: how many leaves it has.
        frontier: these roots one after the other, as `frontier` gives them.

    Raises:
        IntegrityError: the frontier is not that of a tree of this size.
    """

    def __init__(self, size: int = 0, frontier: bytes = b"") -> None:
        if size < 0 or len(frontier) != HASH_BYTES * size.bit_count():
            raise IntegrityError("the tree's frontier does not fit its size.", where=f"size {size}")
        self.size = size
        self._roots = [frontier[at : at + HASH_BYTES] for at in range(0, len(frontier), HASH_BYTES)]

    @property
    def frontier(self) -> bytes:
        """What a tree can be made from again."""
        return b"".join(self._roots)

    def add(self, leaves: Iterable[bytes]) -> None:
        """Add leaves, by their hashes."""
        for leaf in leaves:
            found, size = leaf, self.size
            while size & 1:
                found = _node(self._roots.pop(), found)
                size >>= 1
            self._roots.append(found)
            self.size += 1

    def root(self) -> bytes:
        """The root of all leaves so far."""
        if not self._roots:
            return hashlib.sha256(b"").digest()
        found = self._roots[-1]
        for left in reversed(self._roots[:-1]):
            found = _node(left, found)
        return found
