"""What a fit leaves in its folder, as bytes that depend on nothing but the inputs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import safetensors.torch

from fasttrack.errors import StorageError
from fasttrack.training.loop import Trained
from fasttrack.training.prepare import Prepared


def dump_json(document: Any) -> bytes:
    """Canonical JSON: sorted keys, two spaces, a newline at the end; NaN becomes null."""
    options = orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY
    return orjson.dumps(document, option=options)


def write_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        StorageError: the disk refused it.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        raise StorageError(
            f"can't be written: {error.strerror}.", where=str(path), fix="Free disk space, or choose another folder."
        ) from error


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
