"""What a fit leaves in its folder, as bytes that depend on nothing but the inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import safetensors.torch

from fasttrack.training.files import dump_json
from fasttrack.training.loop import Trained
from fasttrack.training.prepare import Prepared


def model_files(
    trained: Trained, prepared: Prepared, architecture: str, parameters: Mapping[str, Any]
) -> dict[str, bytes]:
    """``model.safetensors``, ``config.json`` (not calibrated yet) and ``training.json`` (the learning curve)."""
    config = {
        "architecture": architecture,
        "parameters": dict(parameters),
        "heads": ["classification", "regression"],
        "encoder": prepared.encoder.to_json(),
        "regression": {"center": prepared.label.center, "scale": prepared.label.scale},
    }
    curve = {"curve": trained.curve, "best": trained.scores, "train_rows": len(prepared.train["positive"])}
    return {
        "model.safetensors": safetensors.torch.save(trained.state),
        "config.json": dump_json(config),
        "training.json": dump_json(curve),
    }
