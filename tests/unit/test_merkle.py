"""The tree is RFC 6962's, whatever the way its leaves came in, and its checkpoints are texts that nobody can change."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from fasttrack.errors import IntegrityError
from fasttrack.registry.checkpoints import ORIGIN, Checkpoint, opened
from fasttrack.registry.merkle import Tree, leaf_hash

KEY = Ed25519PrivateKey.generate()
POINT = Checkpoint(5, bytes(range(32)), datetime(2026, 1, 1, 12, 30, 0, 5, UTC))


def defined(entries: list[bytes]) -> bytes:
    """MTH of RFC 6962, section 2.1, as it is written there."""
    if not entries:
        return hashlib.sha256(b"").digest()
    if len(entries) == 1:
        return hashlib.sha256(b"\x00" + entries[0]).digest()
    half = 1
    while half * 2 < len(entries):
        half *= 2
    return hashlib.sha256(b"\x01" + defined(entries[:half]) + defined(entries[half:])).digest()


@given(st.lists(st.binary(max_size=8), max_size=70), st.lists(st.integers(0, 70), max_size=6))
def test_the_root_is_rfc_6962s_however_often_the_tree_was_put_away(entries: list[bytes], stops: list[int]) -> None:
    tree = Tree()
    for at, entry in enumerate(entries):
        if at in stops:
            tree = Tree(tree.size, tree.frontier)
        tree.add([leaf_hash(entry)])
    assert (tree.size, tree.root()) == (len(entries), defined(entries))


def test_a_frontier_of_another_size_is_refused() -> None:
    for size, frontier in ((1, b""), (3, bytes(32)), (2, bytes(33)), (-1, b"")):
        with pytest.raises(IntegrityError, match="does not fit"):
            Tree(size, frontier)


def test_a_checkpoint_is_read_as_it_was_signed() -> None:
    note = POINT.signed(KEY)
    assert opened(note, KEY.public_key()) == POINT
    assert note.splitlines()[:2] == [ORIGIN, "5"]


@given(st.data())
def test_a_checkpoint_that_was_changed_anywhere_is_refused(data: st.DataObject) -> None:
    note = POINT.signed(KEY)
    at = data.draw(st.integers(0, len(note) - 2))
    other = data.draw(st.characters(codec="utf-8").filter(lambda char: char != note[at]))
    changed = note[:at] + data.draw(st.sampled_from([other, "", other + note[at]])) + note[at + 1 :]
    try:
        found = opened(changed, KEY.public_key())
    except IntegrityError:
        return
    # Lines beside the signature may come and go, as a note may carry several.
    assert found == POINT
    assert changed.startswith(note[: note.index("\n\n") + 2])


def test_another_key_and_another_text_are_refused() -> None:
    with pytest.raises(IntegrityError, match="not signed"):
        opened(POINT.signed(KEY), Ed25519PrivateKey.generate().public_key())
    for text in ("", "\n\n", "something else\n\n", POINT.signed(KEY).partition("\n\n")[0]):
        with pytest.raises(IntegrityError):
            opened(text, KEY.public_key())
