"""A small, real, signed model package of the flights use case, trained for a moment on synthetic rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import safetensors.torch
import torch

from fasttrack import usecase as usecases
from fasttrack.evaluation import novelty
from fasttrack.evaluation.background import background
from fasttrack.evaluation.signature import signature
from fasttrack.models.architectures import build as build_network
from fasttrack.models.calibration import Conformal, Platt
from fasttrack.models.encoding import Encoder
from fasttrack.models.int8 import quantized
from fasttrack.models.layers import Network, Sizes
from fasttrack.models.novelty import Novelty
from fasttrack.registry import keys, package
from fasttrack.training.data import Rows
from fasttrack.usecase import UseCase

ROOT = Path(__file__).resolve().parents[2]
USECASE_FILE = ROOT / "examples/flights/usecase.yaml"
_REQUIRED = frozenset({"carrier", "origin", "destination", "distance", "hour", "weekday", "month"})
_WORDS = {"carrier": ["AA", "B6", "UA"], "origin": ["EWR", "JFK", "LGA"], "destination": ["LAX", "ORD", "SFO", "MIA"]}


@dataclass(frozen=True)
class Built:
    """Where a package lies, the keys that it was signed with, and the rows behind it."""

    path: Path
    private_key: bytes
    verify_key: Path
    usecase: UseCase
    rows: Rows
    digest: str


def synthetic_rows(usecase: UseCase, count: int, seed: int) -> Rows:
    """Rows with gaps, whose label depends on numbers, categories and the sequence, with interactions."""
    random = np.random.default_rng(seed)
    columns: dict[str, np.ndarray] = {}
    for column in usecase.columns():
        if column.role == "numeric":
            values = random.gamma(2.0, 10.0, count).astype(np.float32)
            if column.name not in _REQUIRED:
                values[random.random(count) < 0.1] = np.nan
            columns[column.name] = values
        elif column.role == "category":
            columns[column.name] = random.choice(_WORDS.get(column.name, list("0123456")), count).astype(object)
        else:
            lengths = random.integers(0, column.length + 1, count)
            values = random.normal(10, 20, (count, column.length, len(column.channels))).astype(np.float32)
            values[np.arange(column.length) < (column.length - lengths)[:, None]] = np.nan
            columns[column.name], columns[f"{column.name}_length"] = values, lengths
    label = _label(columns, random)
    moment = np.arange(count, dtype=np.int64)
    return Rows(columns, label, (label > 15).astype(np.float32), moment, moment)


def _label(columns: dict[str, np.ndarray], random: np.random.Generator) -> np.ndarray:
    def known(name: str) -> np.ndarray:
        return np.nan_to_num(columns[name], nan=20.0)

    label = 0.8 * known("origin_departure_delay_mean_1h") + 10 * (columns["carrier"] == "B6")
    label += 0.03 * known("weather_wind_speed") * known("weather_precipitation") - 0.4 * known("hour")
    label += 0.5 * np.nan_to_num(columns["recent_flights"], nan=0.0)[:, -1, 0]
    return (label - 10 + random.normal(0, 30, len(label))).astype(np.float32)


def _trained(
    architecture: str, parameters: dict[str, Any], encoder: Encoder, rows: Rows, steps: int, seed: int
) -> Network:
    torch.manual_seed(seed)
    network = build_network(architecture, parameters, Sizes.of(encoder))
    batch = encoder.encode(rows.columns)
    network.fit_inputs(batch.numeric)
    inputs = [torch.from_numpy(array) for array in batch.tensors().values()]
    positive, label = torch.from_numpy(rows.positive), torch.from_numpy((rows.label - 10) / 20)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.005)
    for _ in range(steps):
        logit, value = network(*inputs)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logit, positive)
        loss = loss + (value - label[:, None]).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


def _novelty(encoder: Encoder, rows: Rows) -> Novelty:
    """Every second row is held out, though the network has seen all of them."""
    even = np.arange(len(rows)) % 2 == 0
    train, held_out = (encoder.encode(rows.take(which).columns, strict=False) for which in (even, ~even))
    return novelty.fit(train, held_out)


def content(
    usecase: UseCase,
    rows: Rows,
    architecture: str = "mlp",
    steps: int = 60,
    seed: int = 0,
    quantization: str = "",
    parameters: dict[str, Any] | None = None,
) -> dict[str, bytes]:
    """The files of a package; `quantization` may be int8."""
    encoder = Encoder.fit(usecase.columns(), rows.columns, _REQUIRED)
    network = _trained(architecture, parameters or {}, encoder, rows, steps, seed)
    config: dict[str, Any] = {
        "architecture": architecture,
        "parameters": parameters or {},
        "heads": ["classification", "regression"],
        "encoder": encoder.to_json(),
        "regression": {"center": 10.0, "scale": 20.0},
        "calibration": Platt().to_json(),
    }
    state = network.state_dict()
    if quantization:
        config["quantization"] = quantization
        state = quantized(state, network)
    return {
        "model.safetensors": safetensors.torch.save(state),
        "config.json": orjson.dumps(config),
        "signature.json": orjson.dumps(signature(usecase, encoder, rows), option=orjson.OPT_SERIALIZE_NUMPY),
        "features.json": orjson.dumps(usecases.dump(usecase)["features"]),
        "background.parquet": background(usecase.columns(), rows, 200, seed),
        "conformal.json": orjson.dumps(Conformal(0.9, 5.0, 100).to_json()),
        "metrics.json": b"{}",
        "novelty.json": orjson.dumps(_novelty(encoder, rows).to_json()),
        "lineage.json": orjson.dumps({"seed": seed}),
    }


def build(
    folder: Path, architecture: str = "mlp", count: int = 600, steps: int = 60, seed: int = 0, quantization: str = ""
) -> Built:
    """Train, sign and write a package under `folder`."""
    usecase = usecases.load(USECASE_FILE)
    rows = synthetic_rows(usecase, count, seed)
    private, public = keys.new_key_pair()
    folder.mkdir(parents=True, exist_ok=True)
    verify_key = folder / "verify.pem"
    verify_key.write_bytes(public)
    made = package.build(content(usecase, rows, architecture, steps, seed, quantization), private)
    return Built(package.write(made, folder / "packages"), private, verify_key, usecase, rows, made.digest)


def greatest(built: Built, name: str, value: Any) -> Any:
    """The greatest value that a numeric column has; another column's value as it is."""
    if not isinstance(value, float | int | None):
        return value
    return float(np.nanmax(built.rows.columns[name]))


def raw_row(built: Built, index: int) -> dict[str, Any]:
    """One row as a client would write it in JSON: None for missing, a list of events for the sequence."""
    found: dict[str, Any] = {}
    for column in built.usecase.columns():
        value = built.rows.columns[column.name][index]
        if column.role == "numeric":
            found[column.name] = None if np.isnan(value) else float(value)
        elif column.role == "category":
            found[column.name] = value
        else:
            found[column.name] = value[~np.isnan(value).all(axis=1)].astype(float).tolist()
    return found
