"""The compressed form of a fitted model: pruned, quantized, or both."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import orjson
import safetensors.torch

from fasttrack.models.inference import Predictor
from fasttrack.models.int8 import INT8, quantized
from fasttrack.training.data import Rows
from fasttrack.training.files import dump_json
from fasttrack.training.prepare import LabelScale, example
from fasttrack.usecase import UseCase
from fasttrack.usecase.serving import Variant


def work(usecase: UseCase, rows: int) -> int:
    """How often `compressed` calls `on_pass` when it learns from so many rows."""
    variant = usecase.serving.variant
    if variant is None or not variant.pruning:
        return 0
    from fasttrack.training.distillation import passes

    return passes(rows, usecase.training.epochs, usecase.training.batch_size)


def compressed(
    usecase: UseCase,
    variant: Variant,
    files: Mapping[str, bytes],
    train: Rows,
    on_pass: Callable[[], None] = lambda: None,
) -> dict[str, bytes]:
    """``model.safetensors`` and ``config.json`` (not calibrated) of a model's variant; same inputs, same bytes.

    Args:
        usecase: the use case.
        variant: what is asked for.
        files: the same two files of the full model.
        train: training rows, to fine-tune a pruned network with.
        on_pass: called after each pass over them.

    Raises:
        IntegrityError: the model's files are damaged.
    """
    predictor = Predictor.uncalibrated(files)
    network, config = predictor.network, orjson.loads(files["config.json"])
    config["variant_of"] = "sha256:" + hashlib.sha256(files["model.safetensors"]).hexdigest()
    if variant.pruning:
        from fasttrack.training.distillation import FineTuning, pruned

        label = LabelScale(config["regression"]["center"], config["regression"]["scale"])
        rows, training = example(predictor.encoder, label, train), usecase.training
        tuning = FineTuning(training.epochs, training.batch_size, training.seed, usecase.gate.coverage)
        network = pruned(network, config["architecture"], config["parameters"], variant.pruning, rows, tuning, on_pass)
        config["parameters"]["hidden"] = network.trunk.classification.in_features
        config["pruning"] = variant.pruning
    state = {name: values.contiguous() for name, values in network.state_dict().items()}
    if variant.quantization == INT8:
        state = quantized(state, network)
        config["quantization"] = INT8
    return {"model.safetensors": safetensors.torch.save(state), "config.json": dump_json(config)}
