"""What stands before a model server: a circuit breaker, and a budget for second tries."""

from __future__ import annotations

import time


class CircuitBreaker:
    """Refuses calls for a while after several failures in a row, then lets one call try.

    Args:
        failures: how many failures in a row open it.
        seconds: how long it stays open.
    """

    def __init__(self, failures: int, seconds: float) -> None:
        self._limit = failures
        self._seconds = seconds
        self._failed = 0
        self._open_until = 0.0
        self._trying = False

    def wait(self, now: float | None = None) -> float:
        """Seconds until a call may go; 0 lets it go, and after an opening only one at a time."""
        if self._failed < self._limit:
            return 0.0
        now = time.monotonic() if now is None else now
        if now < self._open_until:
            return self._open_until - now
        if self._trying:
            return self._seconds
        self._trying = True
        return 0.0

    def succeeded(self) -> None:
        """Close it."""
        self._failed = 0
        self._trying = False

    def failed(self, now: float | None = None) -> None:
        """Count a failure."""
        self._failed += 1
        self._trying = False
        if self._failed >= self._limit:
            self._open_until = (time.monotonic() if now is None else now) + self._seconds

    def abandoned(self) -> None:
        """The call ended without telling anything about the server, such as by a caller that hung up."""
        self._trying = False


class RetryBudget:
    """Second tries may make up at most a share of all calls, so that they can't multiply an outage."""

    def __init__(self, share: float = 0.1, most: float = 10.0) -> None:
        self._share = share
        self._most = most
        self._left = most

    def earn(self) -> None:
        """Count a first try."""
        self._left = min(self._most, self._left + self._share)

    def spend(self) -> bool:
        """Take one second try; False where there is none left."""
        if self._left < 1:
            return False
        self._left -= 1
        return True
