"""The Java archives of Kafka, and of Spark's Delta Lake and Kafka source.

They are fetched once by Apache Ivy, and checked against a committed list.

Ivy comes with pyspark and knows the public repository itself; ``FASTTRACK_MAVEN_MIRROR`` names another one. The list,
`jars.sha256`, has the form of sha256sum; its paths are ``organisation/module/revision/module-revision.jar``.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from xml.sax.saxutils import quoteattr

from fasttrack.errors import ConfigurationError, IntegrityError, StorageError, UnavailableError
from fasttrack.local.jvm import cache_home, java, trust_options
from fasttrack.progress import note

LIST = Path(__file__).with_name("jars.sha256")
#: What a new list is made from: organisation, module, revision, with its dependencies or not.
ROOTS: dict[str, list[tuple[str, str, str, bool]]] = {
    "kafka": [("org.apache.kafka", "kafka_2.13", "4.4.0", True), ("org.slf4j", "slf4j-simple", "1.7.36", True)],
    # pyspark has everything else that these need; a second copy of it on the class path would shadow pyspark's.
    "delta": [
        ("io.delta", "delta-spark_4.1_2.13", "4.4.0", False),
        ("io.delta", "delta-storage", "4.4.0", False),
        ("io.delta", "delta-kernel-api", "4.4.0", False),
        ("io.delta", "delta-kernel-defaults", "4.4.0", False),
        ("io.delta", "delta-kernel-unitycatalog", "4.4.0", False),
    ],
    # For the benchmark that drains with Spark too.
    "spark-kafka": [
        ("org.apache.spark", "spark-sql-kafka-0-10_2.13", "4.1.1", False),
        ("org.apache.spark", "spark-token-provider-kafka-0-10_2.13", "4.1.1", False),
        ("org.apache.kafka", "kafka-clients", "3.9.1", False),
        ("org.apache.commons", "commons-pool2", "2.12.1", False),
    ],
}
#: What the platform itself needs.
PLATFORM = ("kafka", "delta")
_PATTERN = "[organisation]/[module]/[revision]/[module]-[revision].[ext]"
_TIMEOUT_SECONDS = 900


@dataclass(frozen=True)
class Jar:
    """One line of the list: a path below the cache folder, and the SHA-256 sum that the file must have."""

    path: str
    digest: str

    @property
    def coordinates(self) -> tuple[str, str, str]:
        """Organisation, module, revision."""
        organisation, module, revision, _ = self.path.split("/")
        return organisation, module, revision


def folder() -> Path:
    """Where the jars lie, shared by all homes of a user."""
    return cache_home() / "jars"


def locked(part: str) -> list[Jar]:
    """The jars of `part` ("kafka" or "delta") as committed.

    Raises:
        IntegrityError: the list is damaged.
    """
    found: dict[str, list[Jar]] = {}
    current = ""
    for number, line in enumerate(LIST.read_text().splitlines(), start=1):
        if line.startswith("# "):
            current = line[2:].strip()
        elif line.strip():
            digest, _, path = line.partition("  ")
            if len(digest) != 64 or path.count("/") != 3:
                raise IntegrityError("the line is no checksum.", where=f"{LIST}:{number}", fix="Restore the file.")
            found.setdefault(current, []).append(Jar(path, digest))
    return found[part]


def kafka_classpath() -> str:
    """The class path of the Kafka broker and its tools; fetches what is missing.

    Raises:
        IntegrityError: a jar is not the one that the list names.
        UnavailableError: the repository can't be reached.
    """
    return os.pathsep.join(str(path) for path in ensure("kafka"))


def delta_jars() -> list[Path]:
    """What `spark.jars` must name so that Spark reads and writes Delta tables; fetches what is missing.

    Raises:
        IntegrityError: a jar is not the one that the list names.
        UnavailableError: the repository can't be reached.
    """
    return ensure("delta")


def spark_kafka_jars() -> list[Path]:
    """What `spark.jars` must name so that Spark reads Kafka; fetches what is missing.

    Raises:
        IntegrityError: a jar is not the one that the list names.
        UnavailableError: the repository can't be reached.
    """
    return ensure("spark-kafka")


def ensure(part: str) -> list[Path]:
    """All jars of a set, each checked; the missing ones are fetched first, by one process at a time.

    Raises:
        IntegrityError: a jar is not the one that the list names.
        UnavailableError: the repository can't be reached.
        StorageError: the cache can't be written.
    """
    jars = locked(part)
    if missing(part):
        with _lock(part):
            # Another process may have fetched them while we waited for the lock.
            if absent := missing(part):
                _fetch(part, absent)
    for jar in jars:
        _check(folder() / jar.path, jar.digest)
    return [folder() / jar.path for jar in jars]


def missing(part: str) -> list[Jar]:
    """The jars of a set that aren't in the cache."""
    return [jar for jar in locked(part) if not (folder() / jar.path).is_file()]


def damaged(part: str) -> list[Path]:
    """The jars in the cache that aren't the ones that the list names."""
    return [p for jar in locked(part) if (p := folder() / jar.path).is_file() and _digest(p) != jar.digest]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check(path: Path, digest: str) -> None:
    found = _digest(path)
    if found != digest:
        raise IntegrityError(
            f"the jar was changed or cut short: its SHA-256 is {found[:12]}..., but {digest[:12]}... is committed.",
            where=str(path),
            fix=f"Remove it (rm {path}) and run the command again: it is fetched anew.",
        )


@contextmanager
def _lock(part: str) -> Iterator[None]:
    try:
        folder().mkdir(parents=True, exist_ok=True)
        handle = (folder() / f"{part}.lock").open("w")
    except OSError as error:
        raise _unwritable(error) from error
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _unwritable(error: OSError) -> StorageError:
    return StorageError(
        f"the jars can't be stored: {error.strerror}.",
        where=str(error.filename or folder()),
        fix="Free disk space, or set FASTTRACK_CACHE to a folder that can be written.",
    )


def _fetch(part: str, jars: list[Jar]) -> None:
    note(f"Fetching {len(jars)} jars for {part} (once; about half a minute) ...")
    try:
        with tempfile.TemporaryDirectory(dir=folder(), prefix=f"{part}-") as name:
            got = _resolve(Path(name), [(*jar.coordinates, False) for jar in jars])
            for jar in jars:
                source = got / jar.path
                if not source.is_file():
                    raise UnavailableError(
                        f"the repository has no {jar.path}.", fix="Try again, or set FASTTRACK_MAVEN_MIRROR."
                    )
                if (digest := _digest(source)) != jar.digest:
                    raise IntegrityError(
                        f"the repository sent another {source.name} than the committed one (SHA-256 {digest[:12]}...).",
                        fix="It was not kept. Use a repository that you trust (FASTTRACK_MAVEN_MIRROR).",
                    )
            for jar in jars:
                target = folder() / jar.path
                target.parent.mkdir(parents=True, exist_ok=True)
                (got / jar.path).replace(target)
    except OSError as error:
        raise _unwritable(error) from error


def _resolve(work: Path, modules: list[tuple[str, str, str, bool]]) -> Path:
    """Run Ivy in `work`; returns the folder that it filled. Its cache lies in `work`, so nothing old is trusted."""
    dependencies = "".join(
        f'<dependency org="{o}" name="{m}" rev="{r}" force="true" transitive="{str(deep).lower()}"'
        ' conf="default->default,master"/>'
        for o, m, r, deep in modules
    )
    (work / "ivy.xml").write_text(
        '<ivy-module version="2.0"><info organisation="fasttrack" module="jars"/><configurations><conf name="default"/>'
        f"</configurations><dependencies>{dependencies}</dependencies></ivy-module>"
    )
    ivy_jar = _ivy()
    command = [str(java()), "-Xmx256m", *trust_options(work), "-cp", str(ivy_jar), "org.apache.ivy.Main"]
    command += ["-ivy", "ivy.xml", "-cache", "cache", "-types", "jar", "bundle", "-retrieve", f"jars/{_PATTERN}"]
    if mirror := os.environ.get("FASTTRACK_MAVEN_MIRROR"):
        (work / "settings.xml").write_text(
            '<ivysettings><settings defaultResolver="mirror"/><resolvers>'
            f'<ibiblio name="mirror" m2compatible="true" root={quoteattr(mirror)}/></resolvers></ivysettings>'
        )
        command += ["-settings", "settings.xml"]
    try:
        done = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(
            f"the jars did not arrive within {_TIMEOUT_SECONDS} s.", fix="Check the network and try again."
        ) from error
    if done.returncode != 0:
        said = [
            line.strip()
            for line in (done.stdout + done.stderr).splitlines()
            if "error" in line.lower() or "not found" in line
        ]
        raise UnavailableError(
            f"the jars could not be fetched: {said[-1] if said else f'Ivy ended with {done.returncode}'}.",
            fix="Check the network and proxy (JAVA_TOOL_OPTIONS), or name a mirror in FASTTRACK_MAVEN_MIRROR.",
        )
    return work / "jars"


def _ivy() -> Path:
    spec = find_spec("pyspark")
    found = sorted(Path(spec.origin).parent.glob("jars/ivy-*.jar")) if spec and spec.origin else []
    if not found:
        raise ConfigurationError("Apache Ivy (part of pyspark) is not installed.", fix="Run `make setup`.")
    return found[-1]


def write_list() -> None:
    """Resolve `ROOTS` anew and write `jars.sha256`; for maintainers, who then read the difference.

    Raises:
        UnavailableError: the repository can't be reached.
    """
    lines: list[str] = []
    for part, roots in ROOTS.items():
        with tempfile.TemporaryDirectory() as name:
            got = _resolve(Path(name), roots)
            lines.append(f"# {part}")
            lines += [f"{_digest(path)}  {path.relative_to(got)}" for path in sorted(got.rglob("*.jar"))]
    LIST.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    write_list()
    sys.stdout.write(f"{LIST}: {len(LIST.read_text().splitlines())} lines\n")
