"""What a fault scenario found, and the table of all."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.faults.oracle import Verdict
from tests.faults.rig import Bench


@dataclass
class Outcome:
    """One scenario's result.

    Attributes:
        fault: its name.
        times: how often the fault happened.
        seconds: how long that took.
        verdict: what became of the messages.
        gone: appends that the drain took for durable and a power cut took away.
        failure: why the scenario could not go on, if so.
    """

    fault: str
    times: int = 0
    seconds: float = 0.0
    verdict: Verdict = field(default_factory=Verdict)
    gone: int = 0
    failure: str = ""
    _began: float = field(default_factory=time.monotonic, repr=False)

    @property
    def passed(self) -> bool:
        """Whether it ran to its end and every message is in the lake once, rightly and in order."""
        return self.verdict.clean and not self.gone and not self.failure

    def judge(self, bench: Bench) -> None:
        """Drain what is left and add the judgement.

        Raises:
            AssertionError: it isn't clean: the bench is left as it is, to be looked at.
        """
        found = bench.judge()
        self.verdict += found
        assert found.clean, f"{bench.load.usecase.name} in {bench.lake}: {found}"
        seconds = time.monotonic() - self._began
        said = f"{self.fault}: {self.times:,} times, {self.verdict.events:,} events, all in order after {seconds:.0f} s"
        print(said, file=sys.stderr, flush=True)

    def ended(self) -> Outcome:
        """This outcome with its time."""
        self.seconds = time.monotonic() - self._began
        return self


_HEAD = ("fault", "times", "events", "lost", "twice", "out of order", "otherwise wrong", "seconds")


def table(outcomes: Sequence[Outcome]) -> str:
    """The outcomes as text."""
    rows = [_HEAD]
    for o in outcomes:
        v = o.verdict
        wrong = v.invented + v.misplaced + v.altered
        counts = (o.times, v.events, v.lost + o.gone, v.twice, v.out_of_order, wrong)
        rows.append((o.fault + (" FAILED" if o.failure else ""), *(f"{n:,}" for n in counts), f"{o.seconds:.0f}"))
    widths = [max(len(row[at]) for row in rows) for at in range(len(_HEAD))]
    lines = [
        "  ".join(
            text.ljust(w) if at == 0 else text.rjust(w) for at, (text, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])
