"""Spark's Java classes, loaded and linked once and mapped into memory by later sessions (CDS; JEP 350).

Loading some 17,000 classes is most of what a short Spark job costs: 6 of 14 CPU-seconds.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

#: The folder that keeps archives; without it none is made or used.
CLASSES_VARIABLE = "FASTTRACK_SPARK_CLASSES"

# Both archives and their users must agree on the collector.
_COLLECTOR = "-XX:+UseSerialGC"
_BASE_SECONDS = 60
# A JVM that finds an archive unfit says so on standard output and goes on without it.
_QUIET = "-Xlog:disable -Xlog:all=error:stderr"


@dataclass(frozen=True)
class Classes:
    """What a JVM is told about archives.

    Attributes:
        options: for its command line, separated by blanks.
        recording: the file that it writes when it ends, if there is no archive yet.
        archive: what that file is to be called once it is whole.
    """

    options: str
    recording: Path | None = None
    archive: Path | None = None

    def keep(self, whole: bool) -> None:
        """Take what the JVM recorded when it ended into use; remove it if that is not `whole`."""
        if self.recording is None or self.archive is None:
            return
        if whole and self.recording.is_file():
            self.recording.replace(self.archive)
        self.recording.unlink(missing_ok=True)


def classes(jars: str) -> Classes:
    """The archive for Spark with these jars: the one to use, or the one to record.

    Args:
        jars: the class path beside Spark's own.
    """
    folder, home = os.environ.get(CLASSES_VARIABLE), os.environ.get("JAVA_HOME")
    if not folder or not home:
        return Classes(_COLLECTOR)
    java = Path(home) / "bin" / "java"
    said = f"{java.read_bytes()!r} {version('pyspark')} {jars}"
    digest = hashlib.sha256(said.encode()).hexdigest()[:12]
    base, archive = Path(folder) / f"java-{digest}.jsa", Path(folder) / f"spark-{digest}.jsa"
    if archive.is_file() and base.is_file():
        return Classes(f"{_COLLECTOR} {_QUIET} -XX:SharedArchiveFile={base}{os.pathsep}{archive}")
    if not _base(java, base):
        return Classes(_COLLECTOR)
    recording = archive.with_suffix(f".{os.getpid()}")
    options = f"{_COLLECTOR} {_QUIET} -XX:SharedArchiveFile={base} -XX:ArchiveClassesAtExit={recording}"
    return Classes(options, recording, archive)


def _base(java: Path, base: Path) -> bool:
    """Make the archive of Java's own classes, which a wheel's runtime lacks; whether it is there."""
    if base.is_file():
        return True
    made = base.with_suffix(f".{os.getpid()}")
    command = [str(java), _COLLECTOR, "-Xshare:dump", f"-XX:SharedArchiveFile={made}"]
    try:
        base.parent.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(command, capture_output=True, timeout=_BASE_SECONDS, check=False)
        if done.returncode == 0 and made.is_file():
            made.replace(base)
            return True
    except (OSError, subprocess.TimeoutExpired):
        # Archives only save time: without one the job runs as it would have.
        made.unlink(missing_ok=True)
    return False
