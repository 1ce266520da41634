"""One thing that ails a pod or a job, and the error that comes of it."""

from __future__ import annotations

from dataclasses import dataclass

from fasttrack.errors import ConfigurationError, FastTrackError, StepError, UnavailableError

#: What the cluster has to be changed for, or filled with.
_CONFIGURATION = frozenset(
    {"image", "image-name", "settings", "volume", "account", "pod-security", "webhook", "quota", "selector", "security"}
)
_UNAVAILABLE = frozenset({"no-gpu", "no-room", "taint", "gated", "network", "preempted", "evicted", "node-lost"})


@dataclass(frozen=True)
class Trouble:
    """What is wrong.

    Attributes:
        code: a word for programs: ``no-gpu``, ``image``, ``quota``, ``out-of-memory`` and so on.
        what: one phrase for people.
        where: pod and container, or the object.
        fix: the next thing to do.
        fatal: it will not mend itself: waiting is in vain.
        transient: not the work's own fault: worth another attempt.
    """

    code: str
    what: str
    where: str
    fix: str
    fatal: bool = False
    transient: bool = False

    def __str__(self) -> str:
        return f"{self.where}: {self.what}. {self.fix}"

    def error(self, step: str = "") -> FastTrackError:
        """The error to raise for it.

        Args:
            step: what can't go on.
        """
        kind: type[FastTrackError] = StepError
        if self.code in _CONFIGURATION:
            kind = ConfigurationError
        elif self.code in _UNAVAILABLE or self.transient:
            kind = UnavailableError
        where = f"{step}, {self.where}" if step else self.where
        return kind(f"{self.what}.", where=where, fix=self.fix)
