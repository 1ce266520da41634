"""Late events: those further behind the newest event of their partition than the contract allows.

They land like all others; they are only counted.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt

from fasttrack.ingest.dedup import clock

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: Older than any event: nothing was seen yet.
_NEVER = -(2**63)


class Watermark:
    """How far one partition's events have come: the newest event time seen, less what the contract allows.

    Only events that land count, so that the table tells a restarted drain where it was. It never is ahead of the clock:
    one sender's clock that is would make all others' events late.

    Args:
        allowed: the stream's ``allowed_lateness``.
        newest: the newest event time that the table holds of the partition, in microseconds; None if none.
        now: tells the time in microseconds since 1970.
    """

    def __init__(self, allowed: timedelta, newest: int | None = None, now: Callable[[], int] = clock) -> None:
        self._allowed = allowed // timedelta(microseconds=1)
        self._now = now
        self._newest = _NEVER if newest is None else min(newest, now())

    @property
    def at(self) -> int | None:
        """The watermark in microseconds since 1970; None before the first event."""
        return None if self._newest == _NEVER else self._newest - self._allowed

    def pass_by(self, when: npt.NDArray[np.int64]) -> int:
        """Let events by, which may raise the watermark.

        Args:
            when: event times in microseconds, ``[n]``, in offset order.

        Returns:
            How many of them came after the watermark had passed their time.
        """
        if not len(when):
            return 0
        # An event is never late by its own time, so the newest may include it.
        newest = np.maximum.accumulate(np.maximum(np.minimum(when, self._now()), self._newest))
        self._newest = int(newest[-1])
        # Not `newest - when > allowed`: two times of the calendar are never as far apart as int64 reaches.
        return int(np.count_nonzero(newest - when > self._allowed))


def moment(microseconds: int | None) -> str | None:
    """Microseconds since 1970 as ISO 8601 in UTC; None stays None."""
    return None if microseconds is None else (_EPOCH + timedelta(microseconds=microseconds)).isoformat()
