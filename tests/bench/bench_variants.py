"""A full model beside its int8 and pruned forms: processor time of a forward pass on one thread, bytes, differences.

    python tests/bench/bench_variants.py [--hidden 128] [--layers 2] [--seconds 1] [--only mlp]

The networks are those of the flights use case, fitted for a moment to synthetic rows. Each form is asked in turn, in
nine rounds; ratios are medians over the rounds of a form's time to the full model's in the same round.
"alone" is the largest difference between a row's probability asked alone and among all others.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import numpy as np
import orjson
import safetensors.torch
import torch

from fasttrack import usecase as usecases
from fasttrack.models.architectures import ARCHITECTURES
from fasttrack.models.batch import Batch
from fasttrack.models.inference import Predictor
from fasttrack.models.int8 import quantized
from fasttrack.training.distillation import FineTuning, pruned
from fasttrack.training.prepare import LabelScale, example
from tests.integration import serving_package

ROUNDS = 9
SIZES = (1, 256, 4096)


def forms(architecture: str, options: argparse.Namespace) -> tuple[dict[str, dict[str, bytes]], Batch]:
    """The files of each form, and encoded rows."""
    usecase = usecases.load(serving_package.USECASE_FILE)
    rows = serving_package.synthetic_rows(usecase, max(SIZES), 0)
    parameters = {"hidden": options.hidden, "layers": options.layers}
    full = serving_package.content(usecase, rows, architecture, 40, parameters=parameters)
    predictor, config = Predictor.from_files(full), orjson.loads(full["config.json"])
    learnt = example(predictor.encoder, LabelScale(10.0, 20.0), rows)
    found = {"full": full, "int8": _files(full, config, predictor.network, int8=True)}
    for share in (0.5, 0.75):
        tuning = FineTuning(4, 512, 0, 0.9)
        small = pruned(predictor.network, architecture, parameters, share, learnt, tuning)
        cut = {**config, "parameters": {**parameters, "hidden": small.trunk.classification.in_features}}
        found[f"{share:.0%} pruned"] = _files(full, cut, small, int8=False)
        found[f"{share:.0%} pruned, int8"] = _files(full, cut, small, int8=True)
    return found, predictor.encoder.encode(rows.columns)


def _files(full: dict[str, bytes], config: dict[str, Any], network: Any, *, int8: bool) -> dict[str, bytes]:
    state = {name: values.contiguous() for name, values in network.state_dict().items()}
    state, config = (quantized(state, network), {**config, "quantization": "int8"}) if int8 else (state, config)
    return {**full, "model.safetensors": safetensors.torch.save(state), "config.json": orjson.dumps(config)}


def microseconds(predictor: Predictor, batch: Batch, seconds: float) -> float:
    """Processor time of this thread for one `Predictor.raw`."""
    count, started, until = 0, time.thread_time(), time.monotonic() + seconds
    while time.monotonic() < until or not count:
        predictor.raw(batch)
        count += 1
    return 1e6 * (time.thread_time() - started) / count


def measure(options: argparse.Namespace) -> None:
    """Print a table, and one JSON object as the last line."""
    torch.set_num_threads(1)
    capability = torch.backends.cpu.get_cpu_capability()
    print(f"hidden {options.hidden}, layers {options.layers}, torch {torch.__version__}, {capability}")
    lines = []
    for architecture in [options.only] if options.only else sorted(ARCHITECTURES):
        made, batch = forms(architecture, options)
        predictors = {name: Predictor.from_files(files) for name, files in made.items()}
        times: dict[tuple[str, int], list[float]] = {(name, size): [] for name in made for size in SIZES}
        for _ in range(ROUNDS):
            for size in SIZES:
                part = batch.take(slice(0, size))
                for name, predictor in predictors.items():
                    times[name, size].append(microseconds(predictor, part, options.seconds / ROUNDS))
        together = predictors["full"].predict(batch).probability
        for name, predictor in predictors.items():
            found = predictor.predict(batch).probability
            alone = [predictor.predict(batch.take(slice(row, row + 1))).probability[0] for row in range(len(found))]
            ratios = {
                size: statistics.median(
                    own / full for own, full in zip(times[name, size], times["full", size], strict=True)
                )
                for size in SIZES
            }
            size = len(made[name]["model.safetensors"])
            apart, gap = float(np.abs(found - together).mean()), float(np.abs(found - np.array(alone)).max())
            shown = "".join(f"{ratios[rows]:8.2f}" for rows in SIZES)
            print(f"{architecture:12}{name:20}{size:9} bytes{shown}   mean change {apart:.4f}, alone {gap:.1e}")
            lines.append({"architecture": architecture, "form": name, "bytes": size, "ratios": ratios, "alone": gap})
    print(json.dumps({"forms": lines}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--only", choices=sorted(ARCHITECTURES))
    measure(parser.parse_args())
