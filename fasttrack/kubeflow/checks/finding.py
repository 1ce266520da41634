"""One thing about a cluster that was looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from fasttrack.errors import AuthorizationError, FastTrackError

#: ok; note: nothing stops, but somebody should know; mend: it would fail.
State = Literal["ok", "note", "mend"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: what: ``namespace``, ``permission``, ``crd TrainJob``.
        state: ``ok``, ``note`` or ``mend``.
        detail: what was found.
        fix: what to do, unless it is ok.
        error: the class of error that this would be if it were raised.
    """

    name: str
    state: State
    detail: str
    fix: str | None = None
    error: type[FastTrackError] | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing has to be mended."""
        return self.state != "mend"

    def to_json(self) -> dict[str, Any]:
        """As the command line prints it with ``--json``."""
        return {"name": self.name, "state": self.state, "ok": self.ok, "detail": self.detail, "fix": self.fix}


def mend(name: str, error: FastTrackError) -> Finding:
    """An error as a finding."""
    place = f"{error.where}: " if error.where else ""
    return Finding(name, "mend", f"{place}{error.what}", error.fix, type(error))


def readable(name: str, look: Callable[[], Iterable[Finding]], *, why: str) -> list[Finding]:
    """What `look` finds; a note where the caller isn't permitted to look.

    Args:
        name: the finding's name if nothing could be seen.
        look: makes the findings.
        why: what stays unknown: "whether the nodes have room".
    """
    try:
        return list(look())
    except AuthorizationError as error:
        return [Finding(name, "note", f"could not be checked: {why} ({error.what.rstrip('.')})", error.fix)]
