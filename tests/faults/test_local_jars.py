"""Jars that were tampered with, cut short, withheld or replaced are refused, and the error says what to do."""

from __future__ import annotations

import hashlib
import shutil
import threading
from pathlib import Path

import pytest

from fasttrack.errors import IntegrityError, StorageError, UnavailableError
from fasttrack.local import jars

CONTENT = b"a jar, as committed"
PATH = "org.example/tool/1.0/tool-1.0.jar"


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one module in a folder, a list that names it, and an empty cache; returns the module's jar."""
    module = tmp_path / "repository" / "org" / "example" / "tool" / "1.0"
    module.mkdir(parents=True)
    pom = "<modelVersion>4.0.0</modelVersion><groupId>org.example</groupId><artifactId>tool</artifactId>"
    (module / "tool-1.0.pom").write_text(f"<project>{pom}<version>1.0</version></project>")
    (module / "tool-1.0.jar").write_bytes(CONTENT)
    lines = tmp_path / "jars.sha256"
    lines.write_text(f"# tools\n{hashlib.sha256(CONTENT).hexdigest()}  {PATH}\n")
    monkeypatch.setattr(jars, "LIST", lines)
    monkeypatch.setenv("FASTTRACK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FASTTRACK_MAVEN_MIRROR", (tmp_path / "repository").as_uri() + "/")
    return module / "tool-1.0.jar"


def test_jars_are_fetched_once(mirror: Path) -> None:
    (jar,) = jars.ensure("tools")
    assert jar.read_bytes() == CONTENT
    mirror.unlink()
    assert jars.ensure("tools") == [jar]
    assert [path.name for path in jars.folder().iterdir() if path.name.startswith("tools-")] == []


@pytest.mark.parametrize("damage", [CONTENT[:-1], CONTENT + b"!", b""])
def test_a_changed_jar_is_refused_and_fetched_anew_when_removed(mirror: Path, damage: bytes) -> None:
    (jar,) = jars.ensure("tools")
    jar.write_bytes(damage)
    with pytest.raises(IntegrityError, match=rf"{jar}.*changed or cut short.*rm {jar}"):
        jars.ensure("tools")
    assert jars.damaged("tools") == [jar]
    jar.unlink()
    assert jars.ensure("tools")[0].read_bytes() == CONTENT


def test_another_jar_from_the_repository_is_refused_and_not_kept(mirror: Path) -> None:
    mirror.write_bytes(b"something else")
    with pytest.raises(IntegrityError, match=r"another tool-1\.0\.jar than the committed one"):
        jars.ensure("tools")
    assert [jar.path for jar in jars.missing("tools")] == [PATH]


def test_a_repository_without_the_jar_is_unavailable(mirror: Path) -> None:
    shutil.rmtree(mirror.parent)
    with pytest.raises(UnavailableError, match="FASTTRACK_MAVEN_MIRROR"):
        jars.ensure("tools")


def test_an_unreachable_repository_is_unavailable(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTTRACK_MAVEN_MIRROR", "http://127.0.0.1:9/")
    with pytest.raises(UnavailableError, match="could not be fetched"):
        jars.ensure("tools")


def test_a_cache_that_cannot_be_written_is_a_storage_error(
    mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FASTTRACK_CACHE", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="FASTTRACK_CACHE"):
        jars.ensure("tools")


def test_two_at_once_fetch_only_once(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetches: list[str] = []
    fetch = jars._fetch

    def counted(part: str, missing: list[jars.Jar]) -> None:
        fetches.append(part)
        fetch(part, missing)

    monkeypatch.setattr(jars, "_fetch", counted)
    found: list[list[Path]] = []
    threads = [threading.Thread(target=lambda: found.append(jars.ensure("tools"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert fetches == ["tools"]
    assert len(found) == 3
