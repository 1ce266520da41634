"""Whatever is done to a package's files, it is refused before any of them is parsed."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fasttrack.errors import IntegrityError
from fasttrack.registry import folder, keys, package

PRIVATE, PUBLIC = keys.new_key_pair()
FILES = {name: (f"content of {name}\n" * 5).encode() for name in package.LIMITS}
BUILT = package.build(FILES, PRIVATE)
OTHER = package.build({**FILES, "config.json": b"an older model"}, PRIVATE)
NAMES = sorted(BUILT.content)


@contextmanager
def laid_out(content: dict[str, bytes]) -> Iterator[Path]:
    """A scratch folder with these files."""
    path = Path(tempfile.mkdtemp())
    try:
        for name, data in content.items():
            (path / name).write_bytes(data)
        yield path
    finally:
        shutil.rmtree(path)


def refused(content: dict[str, bytes]) -> IntegrityError:
    """The refusal of such a package; it says where and what to do."""
    with laid_out(content) as path, pytest.raises(IntegrityError) as caught:
        package.load_verified(path, PUBLIC)
    assert caught.value.where
    assert caught.value.fix
    return caught.value


def test_the_untouched_package_is_accepted() -> None:
    with laid_out(BUILT.content) as path:
        assert package.load_verified(path, PUBLIC) == FILES


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(NAMES), st.data())
def test_any_flipped_bit_is_refused(name: str, data: st.DataObject) -> None:
    content = bytearray(BUILT.content[name])
    bit = data.draw(st.integers(0, len(content) * 8 - 1))
    content[bit // 8] ^= 1 << (bit % 8)
    refused({**BUILT.content, name: bytes(content)})


def test_every_single_bit_of_the_signature_counts() -> None:
    for bit in range(512):
        content = bytearray(BUILT.signature)
        content[bit // 8] ^= 1 << (bit % 8)
        refused({**BUILT.content, package.SIGNATURE: bytes(content)})


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(NAMES), st.data())
def test_any_truncation_is_refused(name: str, data: st.DataObject) -> None:
    content = BUILT.content[name]
    refused({**BUILT.content, name: content[: data.draw(st.integers(0, len(content) - 1))]})


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(NAMES), st.binary(min_size=1, max_size=200))
def test_any_added_byte_is_refused(name: str, more: bytes) -> None:
    refused({**BUILT.content, name: BUILT.content[name] + more})


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(NAMES), min_size=2, max_size=2, unique=True))
def test_swapped_files_are_refused(pair: list[str]) -> None:
    one, two = pair
    refused({**BUILT.content, one: BUILT.content[two], two: BUILT.content[one]})


@pytest.mark.parametrize("name", NAMES)
def test_any_missing_file_is_refused(name: str) -> None:
    left = {key: value for key, value in BUILT.content.items() if key != name}
    assert name in str(refused(left))


FILE_NAMES = st.text(
    st.characters(exclude_characters="/\x00", exclude_categories=["Cs"]), min_size=1, max_size=40
).filter(lambda name: name not in {*NAMES, ".", ".."})


@settings(max_examples=100, deadline=None)
@given(FILE_NAMES)
def test_any_extra_file_is_refused(name: str) -> None:
    with laid_out(BUILT.content) as path:
        (path / name).write_bytes(b"x")
        with pytest.raises(IntegrityError, match="not allowed") as caught:
            package.load_verified(path, PUBLIC)
    # A file name may hold escape sequences; they don't reach a terminal.
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", [package.MANIFEST, package.SIGNATURE])
def test_replayed_part_of_another_signed_package_is_refused(name: str) -> None:
    refused({**BUILT.content, name: OTHER.content[name]})


def test_replayed_manifest_and_signature_of_another_package_are_refused() -> None:
    replayed = {name: OTHER.content[name] for name in (package.MANIFEST, package.SIGNATURE)}
    assert "config.json" in str(refused({**BUILT.content, **replayed}))


def test_older_signed_package_is_refused_where_the_digest_is_known() -> None:
    with laid_out(OTHER.content) as path:
        assert package.load(path, PUBLIC).digest == OTHER.digest
        with pytest.raises(IntegrityError, match=f"not {BUILT.digest}"):
            package.load_verified(path, PUBLIC, BUILT.digest)


def test_signature_of_another_key_is_refused_and_the_fix_names_the_setting() -> None:
    stranger = package.build(FILES, keys.new_key_pair()[0])
    assert "FASTTRACK_VERIFY_KEY" in str(refused(stranger.content))


def test_signature_over_the_bare_manifest_is_refused() -> None:
    bare = keys.load_private(PRIVATE).sign(BUILT.manifest)
    refused({**BUILT.content, package.SIGNATURE: bare})


@pytest.mark.parametrize(
    "change",
    [
        lambda m: {**m, "format": "fasttrack.model-package/2"},
        lambda m: {**m, "files": m["files"][1:]},
        lambda m: {**m, "files": m["files"] + m["files"][:1]},
        lambda m: {**m, "files": [{**m["files"][0], "name": "../../etc/passwd"}, *m["files"][1:]]},
        lambda m: {**m, "files": [{**m["files"][0], "name": "/etc/passwd"}, *m["files"][1:]]},
        lambda m: {**m, "files": [{**m["files"][0], "size": -1}, *m["files"][1:]]},
        lambda m: {**m, "files": [{**m["files"][0], "size": "many"}, *m["files"][1:]]},
        lambda m: {**m, "files": None},
        lambda m: m["files"],
        lambda m: {},
    ],
)
def test_signed_manifest_of_a_wrong_form_is_refused(change: Callable[[dict], object]) -> None:
    manifest = orjson.dumps(change(orjson.loads(BUILT.manifest)))
    signature = keys.load_private(PRIVATE).sign(package.DOMAIN + manifest)
    refused({**BUILT.content, package.MANIFEST: manifest, package.SIGNATURE: signature})


@pytest.mark.parametrize("name", NAMES)
def test_links_are_refused_even_to_the_right_content(name: str, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(BUILT.content[name])
    with laid_out(BUILT.content) as path:
        (path / name).unlink()
        (path / name).symlink_to(tmp_path / "elsewhere")
        with pytest.raises(IntegrityError, match="not a regular file"):
            package.load_verified(path, PUBLIC)


@pytest.mark.parametrize("kind", ["folder", "fifo", "socket"])
def test_what_is_no_file_is_refused_without_hanging(kind: str) -> None:
    with laid_out(BUILT.content) as path:
        target = path / "config.json"
        target.unlink()
        if kind == "folder":
            target.mkdir()
        elif kind == "fifo":
            os.mkfifo(target)
        else:
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(str(target))
        with pytest.raises(IntegrityError, match="not a regular file"):
            package.load_verified(path, PUBLIC)


def test_huge_file_is_refused_without_being_read() -> None:
    with laid_out(BUILT.content) as path:
        os.truncate(path / "MANIFEST", 2**40)
        with pytest.raises(IntegrityError, match="more than the 65536 bytes"):
            package.load_verified(path, PUBLIC)


def test_each_file_is_read_once_and_what_was_verified_is_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []
    real = folder.Folder.read

    def read_then_tamper(self: folder.Folder, name: str, limit: int) -> bytes:
        reads.append(name)
        content = real(self, name, limit)
        Path(self.where(name)).write_bytes(b"evil, right after the read")
        return content

    with laid_out(BUILT.content) as path:
        monkeypatch.setattr(folder.Folder, "read", read_then_tamper)
        assert package.load_verified(path, PUBLIC) == FILES
    assert sorted(reads) == NAMES
    assert reads[:2] == [package.MANIFEST, package.SIGNATURE]


def test_nothing_is_parsed_before_the_signature_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    def parse(_: bytes) -> None:
        raise AssertionError("parsed an unverified manifest")

    monkeypatch.setattr(orjson, "loads", parse)
    refused({**BUILT.content, package.MANIFEST: b"[" * 1000})
