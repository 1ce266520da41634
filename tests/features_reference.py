"""Point-in-time features by plain loops: slow, and obviously right. The measure of the real implementation."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from fasttrack.usecase import UseCase
from fasttrack.usecase.durations import format_duration
from fasttrack.usecase.features import FieldFeature, LastFeature, WindowFeature

Event = dict[str, Any]
Histories = dict[str, list[Event]]
Row = dict[str, Any]


def reference_rows(usecase: UseCase, histories: Histories) -> dict[str, Row]:
    """The feature table as rows by event id.

    Args:
        usecase: the use case.
        histories: events of each stream, in any order: contract fields as Python values, times as aware datetimes.
    """
    point = usecase.prediction
    stream = usecase.streams[point.stream]
    rows: dict[str, Row] = {}
    for event in histories[point.stream]:
        if event[point.time_field] is None:
            continue
        moment = event[point.time_field] - point.lead
        if event[stream.event_time] > moment:
            continue
        rows[str(event[stream.event_id])] = reference_row(usecase, histories, event, moment)
    return rows


def reference_row(usecase: UseCase, histories: Histories, event: Event, moment: datetime) -> Row:
    """Features, prediction time and label of one prediction event, as of a moment."""
    row: Row = {"_prediction_time": moment}
    for name, definition in usecase.features.items():
        if isinstance(definition, FieldFeature):
            row[name] = _field(definition, event)
            continue
        keys = usecase.entities[definition.entity].keys
        past = _past(usecase, histories, definition.stream, keys, event, moment)
        if isinstance(definition, WindowFeature):
            row |= _window(name, definition, past, moment)
        elif isinstance(definition, LastFeature):
            row |= _last(name, definition, past, moment)
        else:
            recent = [x for x in past or [] if x[0] >= moment - definition.max_age][-definition.length :]
            matrix: list[float | None] = [None] * (definition.length - len(recent)) * (len(definition.fields) + 1)
            for time, found in recent:
                matrix += [_number(found[field]) for field in definition.fields] + [_hours(moment - time)]
            row |= {name: matrix, f"{name}_length": len(recent)}
    return row | _label(usecase, histories, event, moment)


def _past(
    usecase: UseCase, histories: Histories, stream: str, keys: tuple[str, ...], event: Event, moment: datetime
) -> list[tuple[datetime, Event]] | None:
    """Events before the moment with the same key, oldest first; None for a null key."""
    key = [event[name] for name in keys]
    if None in key:
        return None
    contract = usecase.streams[stream]
    same = [x for x in histories[stream] if [x[name] for name in keys] == key and x[contract.event_time] < moment]
    same.sort(key=lambda x: (x[contract.event_time], str(x[contract.event_id])))
    return [(x[contract.event_time], x) for x in same]


def _window(name: str, definition: WindowFeature, past: list[tuple[datetime, Event]] | None, moment: datetime) -> Row:
    row: Row = {}
    for window in definition.windows:
        inside = [event for time, event in past or [] if time >= moment - window]
        numbers = [1.0 for _ in inside]
        if definition.field is not None:
            numbers = [float(event[definition.field]) for event in inside if event[definition.field] is not None]
        for aggregate in definition.aggregates:
            value = None if past is None else _aggregate(aggregate, numbers)
            row[f"{name}_{aggregate}_{format_duration(window)}"] = value
    return row


def _aggregate(aggregate: str, numbers: list[float]) -> float | None:
    if aggregate == "count":
        return float(len(numbers))
    if not numbers or (aggregate == "std" and len(numbers) < 2):
        return None
    mean = math.fsum(numbers) / len(numbers)
    if aggregate == "mean":
        return mean
    if aggregate == "max":
        return max(numbers)
    return math.sqrt(math.fsum((x - mean) ** 2 for x in numbers) / (len(numbers) - 1))


def _last(name: str, definition: LastFeature, past: list[tuple[datetime, Event]] | None, moment: datetime) -> Row:
    recent = [(time, event) for time, event in past or [] if time >= moment - definition.max_age]
    time, event = recent[-1] if recent else (None, None)
    row: Row = {f"{name}_{field}": None if event is None else _number(event[field]) for field in definition.fields}
    if definition.age:
        row[f"{name}_age_hours"] = None if time is None else _hours(moment - time)
    return row


def _label(usecase: UseCase, histories: Histories, event: Event, moment: datetime) -> Row:
    keys = usecase.entities[usecase.prediction.entity].keys
    contract = usecase.streams[usecase.label.stream]
    found = [
        (x[contract.event_time], str(x[contract.event_id]), x[usecase.label.field])
        for x in histories[usecase.label.stream]
        if [x[key] for key in keys] == [event[key] for key in keys]
        and x[usecase.label.field] is not None
        and x[contract.event_time] >= moment
    ]
    time, _, value = min(found, default=(None, "", None))
    return {"_label": _number(value), "_label_time": time}


def _field(definition: FieldFeature, event: Event) -> float | str | None:
    value = event[definition.field]
    if value is None:
        return None
    if definition.transform is not None:
        local = value.astimezone(ZoneInfo(definition.timezone))
        parts = {
            "hour": local.hour,
            "weekday": local.weekday(),
            "month": local.month,
            "day_of_year": local.timetuple().tm_yday,
        }
        value = parts[definition.transform]
    if isinstance(value, str):
        return value
    number = float(value)
    if not definition.categorical:
        return number
    return str(int(number)) if number == int(number) else repr(number)


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _hours(age: timedelta) -> float:
    return age / timedelta(hours=1)


def minutes(count: float) -> datetime:
    """A moment so many minutes into the year 2024."""
    return datetime(2024, 1, 1, tzinfo=UTC) + timedelta(minutes=count)
