"""A tiny use case and feature tables for it, for the tests of models, training, tuning and evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fasttrack.models.encoding import Encoder
from fasttrack.training.data import Rows, load_rows
from fasttrack.usecase import UseCase, parse

USECASE = """
api_version: fasttrack.ai/v1
name: parcels
streams:
  shipped:
    key: parcel_id
    event_id: event_id
    event_time: shipped_at
    fields:
      event_id: {type: string}
      parcel_id: {type: string}
      shipped_at: {type: timestamp}
      due_at: {type: timestamp}
      depot: {type: string, enum: [east, west]}
      courier: {type: string, nullable: true}
      weight: {type: number, nullable: true, minimum: 0, maximum: 50}
      stops: {type: integer, minimum: 0, maximum: 99}
  delivered:
    key: parcel_id
    event_id: event_id
    event_time: delivered_at
    fields:
      event_id: {type: string}
      parcel_id: {type: string}
      delivered_at: {type: timestamp}
      courier: {type: string}
      delay: {type: number, minimum: -100, maximum: 1000}
entities:
  parcel: {keys: [parcel_id]}
  courier: {keys: [courier]}
prediction: {stream: shipped, entity: parcel, time_field: due_at, lead: 1h}
label: {stream: delivered, field: delay, unit: minutes, late_above: 10, positive_name: late}
features:
  depot: {kind: field, field: depot}
  courier: {kind: field, field: courier}
  weight: {kind: field, field: weight}
  stops: {kind: field, field: stops}
  hour: {kind: field, field: due_at, transform: hour}
  courier_delay:
    {kind: window, stream: delivered, entity: courier, field: delay, aggregates: [count, mean, std], windows: [24h]}
  courier_last: {kind: last, stream: delivered, entity: courier, fields: [delay], max_age: 7d, age: true}
  recent: {kind: sequence, stream: delivered, entity: courier, fields: [delay], length: 4}
split: {train_until: 2024-03-01T00:00:00Z, validate_until: 2024-04-01T00:00:00Z, test_until: 2024-05-01T00:00:00Z}
models:
  - architecture: mlp
    search:
      learning_rate: {type: float, low: 0.001, high: 0.01, log: true}
      hidden: {type: choice, choices: [8, 16]}
      layers: {type: int, low: 1, high: 2}
  - architecture: lstm
    search:
      hidden: {type: choice, choices: [8, 16]}
      sequence_hidden: {type: choice, choices: [4, 8]}
  - architecture: transformer
    search:
      hidden: {type: choice, choices: [8]}
      sequence_hidden: {type: choice, choices: [8]}
      heads: {type: choice, choices: [2]}
      dropout: {type: float, low: 0.0, high: 0.2}
tuning: {trials: 4, sample: 0.5, epochs: 2, seed: 7}
training: {epochs: 3, batch_size: 128, workers: 2, patience: 2, seed: 7}
gate:
  thresholds: [{metric: auc, at_least: 0.6}]
  slices: [depot]
  slice_thresholds: [{metric: auc, at_least: 0.5}]
  slice_min_rows: 50
roles: {reader: {may: [predict]}}
"""

DAY = 86_400_000_000
START = int(np.datetime64("2024-01-01", "us").astype(np.int64))


def usecase(**changes: Any) -> UseCase:
    """The use case, with top-level sections merged with `changes` (e.g. ``tuning={"folds": 2}``)."""
    document = parse(USECASE).model_dump()
    for section, values in changes.items():
        document[section] = {**document[section], **values} if isinstance(values, dict) else values
    return UseCase.model_validate(document)


def table(rows: int = 1200, seed: int = 0, length: int = 4) -> pa.Table:
    """`rows` parcels over four months, whose delay depends on courier, stops, weight and the courier's last delays."""
    rng = np.random.default_rng(seed)
    time = np.sort(START + (rng.random(rows) * 121 * DAY).astype(np.int64))
    courier = rng.integers(0, 6, rows)
    stops = rng.integers(0, 30, rows).astype(float)
    weight = np.where(rng.random(rows) < 0.2, np.nan, rng.gamma(2.0, 4.0, rows))
    events = rng.integers(0, length + 1, rows)
    recent = rng.normal(5.0, 10.0, (rows, length, 2))
    recent[np.arange(length) < (length - events)[:, None]] = np.nan
    last = np.where(events > 0, recent[:, -1, 0], np.nan)
    delay = 4.0 * (courier - 3) + 0.8 * (stops - 15) + 0.5 * np.nan_to_num(last) + rng.standard_t(4, rows) * 6.0
    label_time = time + (rng.random(rows) * 3 * DAY).astype(np.int64)
    unknown = rng.random(rows) < 0.05
    words = [None if rng.random() < 0.05 else f"c{number}" for number in courier]
    flat = pa.array(recent.reshape(-1), from_pandas=True)
    offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * length * 2)
    mean = np.where(events > 0, np.nan_to_num(np.nan_to_num(recent[:, :, 0]).sum(1) / np.maximum(events, 1)), np.nan)
    return pa.table(
        {
            "parcel_id": [f"p{number}" for number in range(rows)],
            "_event_id": [f"shipped-{number:06}" for number in range(rows)],
            "_prediction_time": pa.array(time, pa.timestamp("us", "UTC")),
            "depot": np.where(rng.random(rows) < 0.5, "east", "west").tolist(),
            "courier": pa.array(words, pa.string()),
            "weight": pa.array(weight, from_pandas=True),
            "stops": stops,
            "hour": ((time // 3_600_000_000) % 24).astype(float),
            "courier_delay_count_24h": events.astype(float),
            "courier_delay_mean_24h": pa.array(mean, from_pandas=True),
            "courier_delay_std_24h": pa.array(np.where(events > 1, 3.0, np.nan), from_pandas=True),
            "courier_last_delay": pa.array(last, from_pandas=True),
            "courier_last_age_hours": pa.array(np.where(events > 0, 5.0, np.nan), from_pandas=True),
            "recent": pa.ListArray.from_arrays(offsets, flat),
            "recent_length": pa.array(events, pa.int32()),
            "_label": pa.array(np.where(unknown, np.nan, delay), from_pandas=True),
            "_label_time": pa.array(label_time, pa.timestamp("us", "UTC"), mask=unknown),
        }
    )


def write(folder: Path, rows: int = 1200, seed: int = 0) -> Path:
    """Write a table as ``<folder>/fingerprint01/part-0.parquet``; returns the table's folder."""
    target = folder / "fingerprint01"
    target.mkdir(parents=True, exist_ok=True)
    pq.write_table(table(rows, seed), target / "part-0.parquet")
    return target


def encoded(folder: Path, rows: int = 400) -> tuple[UseCase, Rows, Encoder]:
    """Use case, rows and an encoder fitted on them."""
    found = usecase()
    loaded = load_rows(found, write(folder, rows))
    return found, loaded, Encoder.fit(found.columns(), loaded.columns)
