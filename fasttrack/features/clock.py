"""Times as int64 microseconds, and the calendar parts of a moment in a time zone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np

from fasttrack.errors import UseCaseError
from fasttrack.features.kernel import Floats, Integers
from fasttrack.usecase.features import Transform

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_QUARTER_HOUR = 900_000_000


def microseconds(span: timedelta) -> int:
    """A duration in whole microseconds, exactly."""
    return span // timedelta(microseconds=1)


def to_microseconds(moment: datetime) -> int:
    """Microseconds since the epoch of an aware datetime, exactly."""
    return microseconds(moment - _EPOCH)


def from_microseconds(value: int) -> datetime:
    """The UTC datetime of microseconds since the epoch."""
    return _EPOCH + timedelta(microseconds=value)


def calendar_part(times: Integers, part: Transform, timezone: str) -> Floats:
    """A calendar part of each moment, as the wall clock of a time zone shows it.

    Args:
        times: int64 [n] microseconds since the epoch.
        part: ``hour`` (0-23), ``weekday`` (Monday is 0), ``month`` (1-12) or ``day_of_year`` (1-366).
        timezone: IANA name.

    Returns:
        float64 [n].

    Raises:
        UseCaseError: the time zone is unknown.
    """
    local = times + _offsets(times, timezone)
    days = local // 86_400_000_000
    if part == "hour":
        return (local // 3_600_000_000 % 24).astype(np.float64)
    if part == "weekday":
        return ((days + 3) % 7).astype(np.float64)  # the epoch was a Thursday
    dates = days.astype("datetime64[D]")
    months = dates.astype("datetime64[M]")
    if part == "month":
        return np.asarray(months.astype(np.int64) % 12 + 1, dtype=np.float64)
    return np.asarray((dates - dates.astype("datetime64[Y]")).astype(np.int64) + 1, dtype=np.float64)


def _offsets(times: Integers, timezone: str) -> Integers:
    """Offset from UTC in microseconds; zones change theirs at whole quarter hours only, so few moments are asked."""
    try:
        zone = ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError) as error:
        fix = "Use an IANA name such as Europe/Oslo."
        raise UseCaseError(f"time zone {timezone!r} is unknown.", fix=fix) from error
    quarters, places = np.unique(times // _QUARTER_HOUR, return_inverse=True)
    offsets = [from_microseconds(int(q) * _QUARTER_HOUR).astimezone(zone).utcoffset() for q in quarters]
    found = np.array([microseconds(offset or timedelta(0)) for offset in offsets], dtype=np.int64)
    return found[places] if len(found) else np.zeros(0, dtype=np.int64)
