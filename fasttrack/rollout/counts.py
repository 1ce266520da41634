"""What a gateway saw of both arms in a second or so."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Final, get_args

from fasttrack.rollout.arms import Arm

ARMS: Final[tuple[Arm, ...]] = get_args(Arm)

#: Upper bounds of the histogram of seconds; what is slower is counted after the last.
BOUNDS: Final = (
    0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5,
    2.0, 3.0, 5.0, 10.0,
)  # fmt: skip


@dataclass
class ArmCounts:
    """One arm's counts.

    Attributes:
        requests, failures: requests that the arm's servers were asked, and how many of them they failed.
        keys, keys_failed: keys seen for the first time in this step, and how many of those first requests failed.
        keys_timed, keys_slow: of those first requests, those that were answered since it is known what is slow, and the
            slow ones.
        first_failures: keys that failed for the first time in the rollout.
        first_slow: keys that were slower than `Running.slow_seconds` for the first time in the rollout.
        seconds: histogram of the servers' time over `BOUNDS`.
    """

    requests: int = 0
    failures: int = 0
    keys: int = 0
    keys_failed: int = 0
    keys_timed: int = 0
    keys_slow: int = 0
    first_failures: int = 0
    first_slow: int = 0
    seconds: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))

    def time(self, seconds: float) -> None:
        """Count how long one request took."""
        self.seconds[bisect_left(BOUNDS, seconds)] += 1

    def add(self, other: ArmCounts) -> None:
        """Add another's counts."""
        for each in fields(self):
            if each.name != "seconds":
                setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))
        self.seconds = [mine + its for mine, its in zip(self.seconds, other.seconds, strict=True)]

    def quantile(self, share: float) -> float | None:
        """The bound of the histogram below which at least `share` of the requests were; None without any."""
        total, seen = sum(self.seconds), 0
        if not total:
            return None
        for bound, count in zip(BOUNDS, self.seconds, strict=False):
            seen += count
            if seen >= share * total:
                return bound
        return BOUNDS[-1]


@dataclass
class Mirror:
    """What mirrored requests showed.

    Attributes:
        requests, failures: how many, and how many of them the challenger failed.
        dropped: those left out, as too many were under way.
        rows: whose probabilities were compared; a request for tensors may have several, or none that can be compared.
        disagreements: rows of another class.
        difference: the sum of how far probabilities lie apart.
    """

    requests: int = 0
    failures: int = 0
    dropped: int = 0
    rows: int = 0
    disagreements: int = 0
    difference: float = 0.0

    def add(self, other: Mirror) -> None:
        """Add another's counts."""
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)


@dataclass
class Window:
    """Counts of one gateway under one step of a rollout.

    Attributes:
        firsts: the keys (`arms.place`) that counts of keys are of, by arm and the count's name, for `once.once`; empty:
            no other gateway can have counted them.
    """

    step: int = 0
    champion: ArmCounts = field(default_factory=ArmCounts)
    challenger: ArmCounts = field(default_factory=ArmCounts)
    mirror: Mirror = field(default_factory=Mirror)
    firsts: dict[Arm, dict[str, list[float]]] = field(default_factory=dict)

    def of(self, arm: Arm) -> ArmCounts:
        """The counts of an arm."""
        return self.challenger if arm == "challenger" else self.champion

    def add(self, other: Window) -> None:
        """Add another's counts; step and `firsts` stay."""
        self.champion.add(other.champion)
        self.challenger.add(other.challenger)
        self.mirror.add(other.mirror)

    @property
    def empty(self) -> bool:
        """Whether nothing was counted."""
        return not (self.champion.requests or self.challenger.requests or self.mirror.requests or self.mirror.dropped)

    def as_json(self) -> dict[str, Any]:
        """As JSON values without `firsts`, for `window`."""
        return asdict(replace(self, firsts={}), dict_factory=_counts)


def _counts(items: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value for name, value in items if name != "firsts"}


def window(document: dict[str, Any], firsts: dict[Arm, dict[str, list[float]]] | None = None) -> Window:
    """A window from its JSON values."""
    return Window(
        document["step"],
        ArmCounts(**document["champion"]),
        ArmCounts(**document["challenger"]),
        Mirror(**document["mirror"]),
        firsts or {},
    )


def total(windows: Iterable[Window], step: int) -> Window:
    """The sum of windows."""
    found = Window(step)
    for each in windows:
        found.add(each)
    return found
