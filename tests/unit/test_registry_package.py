"""Model packages: same inputs give the same package, it is written whole or not at all, and only once."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
import pytest

from fasttrack.errors import ConfigurationError, IntegrityError, NotFoundError, StorageError
from fasttrack.registry import folder, keys, package

PRIVATE, PUBLIC = keys.new_key_pair()
FILES = {name: f"content of {name}".encode() * 50 for name in package.LIMITS}


def names(path: Path) -> list[str]:
    return [file.name for file in path.iterdir()]


def test_same_inputs_give_the_same_package() -> None:
    first = package.build(FILES, PRIVATE)
    second = package.build(dict(reversed(FILES.items())), PRIVATE)
    assert first == second
    assert package.build({**FILES, "config.json": b"{}"}, PRIVATE).digest != first.digest


def test_manifest_lists_every_file_in_order() -> None:
    manifest = orjson.loads(package.build(FILES, PRIVATE).manifest)
    assert manifest["format"] == package.FORMAT
    assert [row["name"] for row in manifest["files"]] == sorted(FILES)
    assert all(row["size"] == len(FILES[row["name"]]) for row in manifest["files"])


def test_another_key_gives_the_same_digest_and_another_signature() -> None:
    one, other = package.build(FILES, PRIVATE), package.build(FILES, keys.new_key_pair()[0])
    assert one.digest == other.digest
    assert one.signature != other.signature


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({k: v for k, v in FILES.items() if k != "lineage.json"}, "lineage.json missing"),
        ({**FILES, "model.pkl": b"x"}, "'model.pkl' not allowed"),
        ({**FILES, "../escape": b"x"}, "'../escape' not allowed"),
        ({**FILES, "MANIFEST": b"x"}, "'MANIFEST' not allowed"),
        ({**FILES, "config.json": b" " * (package.LIMITS["config.json"] + 1)}, "the limit is"),
    ],
)
def test_build_refuses_other_sets_of_files(files: dict[str, bytes], said: str) -> None:
    with pytest.raises(IntegrityError, match=said):
        package.build(files, PRIVATE)


def test_round_trip(tmp_path: Path) -> None:
    built = package.build(FILES, PRIVATE)
    path = package.write(built, tmp_path)
    assert path == package.location(tmp_path, built.digest)
    assert package.load_verified(path, PUBLIC) == FILES
    assert package.load(path, PUBLIC, built.digest) == built
    assert package.digest_at(path) == built.digest
    assert package.load_verified(f"file://{path}", PUBLIC) == FILES


def test_a_link_to_the_folder_is_followed(tmp_path: Path) -> None:
    path = package.write(package.build(FILES, PRIVATE), tmp_path / "packages")
    (tmp_path / "models").symlink_to(path)
    assert package.load_verified(tmp_path / "models", PUBLIC) == FILES


def test_writing_again_changes_nothing(tmp_path: Path) -> None:
    built = package.build(FILES, PRIVATE)
    path = package.write(built, tmp_path)
    before = {file: file.stat().st_ino for file in path.iterdir()}
    assert package.write(built, tmp_path) == path
    assert {file: file.stat().st_ino for file in path.iterdir()} == before
    assert names(tmp_path) == [path.name]


def test_writing_over_a_damaged_package_is_refused_and_keeps_it(tmp_path: Path) -> None:
    built = package.build(FILES, PRIVATE)
    path = package.write(built, tmp_path)
    _overwrite(path / "config.json", b"evil")
    with pytest.raises(IntegrityError, match="Move that folder away"):
        package.write(built, tmp_path)
    assert (path / "config.json").read_bytes() == b"evil"


def test_many_writers_at_once(tmp_path: Path) -> None:
    built = package.build(FILES, PRIVATE)
    barrier = threading.Barrier(8)
    paths: list[Path] = []

    def work() -> None:
        barrier.wait()
        paths.append(package.write(built, tmp_path))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(paths) == 8
    assert names(tmp_path) == [paths[0].name]
    assert package.load_verified(paths[0], PUBLIC) == FILES


@contextmanager
def biggest_file(size: int) -> Iterator[None]:
    """The kernel refuses to write files beyond `size` bytes (EFBIG), as a full disk does at some byte (ENOSPC)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 100, 700])
def test_disk_that_takes_no_more_leaves_nothing(tmp_path: Path, size: int) -> None:
    built = package.build(FILES, PRIVATE)
    with biggest_file(size), pytest.raises(StorageError, match="nothing was half-written"):
        package.write(built, tmp_path)
    assert names(tmp_path) == []
    assert package.load_verified(package.write(built, tmp_path), PUBLIC) == FILES


@pytest.mark.parametrize("when", range(1, 12))
def test_full_disk_at_any_sync_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: int
) -> None:
    built = package.build(FILES, PRIVATE)
    calls = 0
    real = os.fsync

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == when:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    # Delayed allocation reports a full disk at fsync, which no quota of an ordinary user can bring about.
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left on device"):
        package.write(built, tmp_path)
    # 10 files and their folder; only from the 12th call on has the package its name.
    assert names(tmp_path) == []


def test_read_only_root_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="can't be written"):
        package.write(package.build(FILES, PRIVATE), tmp_path / "file")


def test_killed_writer_leaves_whole_packages_only(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(PRIVATE)
    root = tmp_path / "packages"
    script = (
        "import pathlib, sys; from fasttrack.registry import package\n"
        "key = pathlib.Path(sys.argv[1]).read_bytes()\n"
        "for n in range(10**6):\n"
        "    files = {name: str(n).encode() * 100_000 for name in package.LIMITS}\n"
        "    package.write(package.build(files, key), sys.argv[2])\n"
    )
    for _ in range(5):
        process = subprocess.Popen([sys.executable, "-c", script, tmp_path / "key.pem", root])
        try:
            known = len(list(root.glob("sha256-*")))
            # Killed while a partial folder is there, which is the moment that matters.
            while not list(root.glob(".partial-*")) or len(list(root.glob("sha256-*"))) <= known:
                assert process.poll() is None
                time.sleep(0.001)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        for path in root.glob("sha256-*"):
            assert package.location(root, package.load(path, PUBLIC).digest) == path
        for partial in root.glob(".partial-*"):
            for file in partial.iterdir():
                file.unlink()
            partial.rmdir()


def test_object_store_is_refused_and_no_folder_called_s3_appears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match="mounted folder"):
        package.write(package.build(FILES, PRIVATE), "s3://bucket/packages")
    assert names(tmp_path) == []


@pytest.mark.parametrize("digest", ["", "sha256:12", "sha256:../../etc", "sha256:" + "A" * 64])
def test_location_takes_digests_only(tmp_path: Path, digest: str) -> None:
    with pytest.raises(IntegrityError, match="not a package digest"):
        package.location(tmp_path, digest)


def test_missing_package_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="gone: there is no model package"):
        package.load_verified(tmp_path / "gone", PUBLIC)


@pytest.mark.parametrize("pem", [b"", b"nonsense", PRIVATE])
def test_public_key_that_is_none(tmp_path: Path, pem: bytes) -> None:
    path = package.write(package.build(FILES, PRIVATE), tmp_path)
    with pytest.raises(ConfigurationError, match="FASTTRACK_VERIFY_KEY"):
        package.load_verified(path, pem)


def test_private_key_that_is_none() -> None:
    with pytest.raises(ConfigurationError, match="FASTTRACK_SIGNING_KEY"):
        package.build(FILES, PUBLIC)


def test_folder_is_read_through_its_descriptor(tmp_path: Path) -> None:
    path = package.write(package.build(FILES, PRIVATE), tmp_path)
    with folder.opened(path) as source:
        path.rename(tmp_path / "moved")
        path.mkdir()
        assert source.read("config.json", 10**6) == FILES["config.json"]


def test_keys_are_made_once_and_only_for_their_owner(tmp_path: Path) -> None:
    made: list[tuple[Path, Path]] = []
    threads = [threading.Thread(target=lambda: made.append(keys.ensure(tmp_path / "keys"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8
    assert len(set(made)) == 1
    private, public = made[0]
    assert private.stat().st_mode & 0o777 == 0o600
    path = package.write(package.build(FILES, private.read_bytes()), tmp_path)
    assert package.load_verified(path, public.read_bytes()) == FILES
    assert sorted(names(tmp_path / "keys")) == sorted([keys.PRIVATE_NAME, keys.PUBLIC_NAME])


def test_keys_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    _, public = keys.ensure(tmp_path)
    public.write_bytes(PUBLIC)
    with pytest.raises(ConfigurationError, match="does not belong"):
        keys.ensure(tmp_path)


def _overwrite(path: Path, content: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(content)
