"""Power cuts without a power switch: note what was fsynced, then take away what was not.

The rule is POSIX's: a file's content is safe once the file was fsynced, its name once its folder was. What is not safe
may be gone, there, or there in part, so all three happen.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fasttrack.lake.append import Ledger

Note = Callable[..., None]


def record(note: Note, lake: str) -> None:
    """Note every fsync that this process makes below `lake`, and every append that it took for durable."""
    fsync, append = os.fsync, Ledger.append
    told: dict[str, set[tuple[str, int]]] = {}

    def noted(handle: int) -> None:
        fsync(handle)
        path = str(Path(f"/proc/self/fd/{handle}").readlink())
        if not (path + "/").startswith(lake + "/"):
            return
        known = os.fstat(handle)
        if not Path(path).is_dir():
            note("durable", file=path, ino=known.st_ino, size=known.st_size)
            return
        with os.scandir(path) as entries:
            names = {(entry.name, entry.inode()) for entry in entries}
        # By name and number: a disk gives a deleted file's number to the next one.
        fresh = names - told.setdefault(path, set())
        told[path] |= fresh
        note("durable", folder=path, entries=sorted(fresh))

    def appended(ledger: Ledger, *args: Any) -> int:
        size = append(ledger, *args)
        note("appended", path=ledger.path, app=ledger.app_id, mark=ledger.mark)
        return size

    os.fsync = noted
    Ledger.append = appended  # type: ignore[method-assign]


class Disk:
    """What a lake's disk holds for certain.

    Args:
        lake: the lake's folder; what is there now survives every cut.
    """

    def __init__(self, lake: Path) -> None:
        self.lake = lake
        self._sizes: dict[tuple[str, int], int] = {}
        self._names: set[tuple[str, str, int]] = set()
        self._settle()

    def _settle(self) -> None:
        self._sizes, self._names = {}, set()
        for path in self.lake.rglob("*"):
            known = path.stat()
            self._sizes[str(path), known.st_ino] = known.st_size
            self._names.add((str(path.parent), path.name, known.st_ino))

    def learn(self, notes: Path) -> None:
        """Take over what processes noted with `record`."""
        for line in notes.read_text().splitlines() if notes.exists() else []:
            fields = json.loads(line)
            if "file" in fields:
                # Numbers of inodes are used again, so by name, too.
                self._sizes[fields["file"], fields["ino"]] = fields["size"]
            else:
                self._names |= {(fields["folder"], name, ino) for name, ino in fields["entries"]}

    def cut(self, chance: random.Random, survives: float) -> int:
        """The power fails; all processes must be dead.

        Args:
            chance: decides.
            survives: how likely it is that something is on the disk though nobody asked for it.

        Returns:
            How many names or contents were taken away.
        """
        taken = self._cut(self.lake, chance, survives)
        # What a restarted machine finds on its disk stays there.
        self._settle()
        return taken

    def _cut(self, folder: Path, chance: random.Random, survives: float) -> int:
        taken = 0
        for path in sorted(folder.iterdir()):
            known = path.lstat()
            if (str(folder), path.name, known.st_ino) not in self._names and chance.random() >= survives:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                taken += 1
            elif path.is_dir():
                taken += self._cut(path, chance, survives)
            elif self._sizes.get((str(path), known.st_ino), -1) != known.st_size and chance.random() >= survives:
                _damage(path, known.st_size, chance)
                taken += 1
        return taken


def _damage(path: Path, size: int, chance: random.Random) -> None:
    """A file whose size or whose blocks were not written: shorter, empty, or zeros from somewhere on."""
    kept = chance.choice([0, chance.randrange(size + 1)])
    os.truncate(path, kept)
    if chance.random() < 0.5:
        os.truncate(path, size)
