"""From the files of a model package to predictions."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import orjson
import safetensors
import safetensors.torch
import torch

from fasttrack.errors import ConfigurationError, IntegrityError
from fasttrack.models.architectures import build
from fasttrack.models.batch import Array, Batch
from fasttrack.models.calibration import Conformal, Platt
from fasttrack.models.device import VARIABLE, device
from fasttrack.models.encoding import Encoder
from fasttrack.models.few_rows import MOST_ROWS, FewRows
from fasttrack.models.int8 import INT8, computes_integers, load_quantized
from fasttrack.models.layers import Network, Sizes
from fasttrack.models.straight import Straight

_LOG = logging.getLogger(__name__)
# Large enough to fill the cores, small enough for the activations to stay in the cache.
_CHUNK = 4096
# Fewer rows are predicted sooner by one core than a GPU is started for them (H100: 0.8 ms for any number up to 256).
_FEW = 512
_GPU_CHUNK = 65536

_Forward = Callable[..., tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class Prediction:
    """What the model says about B rows; all float32 [B].

    Attributes:
        probability: calibrated probability of the positive class.
        value: expected label, in label units.
        lower: lower end of the interval, in label units.
        upper: upper end.
    """

    probability: Array
    value: Array
    lower: Array
    upper: Array


@dataclass(frozen=True)
class Raw:
    """Outputs before calibration, float64 [B]; value, lower and upper in label units."""

    logit: Array
    value: Array
    lower: Array
    upper: Array


class Predictor:
    """A loaded model; holds no state between calls, so threads may share it."""

    def __init__(
        self, network: Network, encoder: Encoder, scale: tuple[float, float], calibration: Platt, conformal: Conformal
    ) -> None:
        self.encoder = encoder
        self.calibration = calibration
        self.conformal = conformal
        self._network = network.eval().requires_grad_(False)
        self._straight = Straight(self._network)
        self._few = FewRows.of(self._network)
        self._on_gpu = self._copy(device())
        self._center, self._scale = scale

    def _copy(self, chosen: torch.device) -> tuple[torch.device, Network] | None:
        if chosen.type == "cpu":
            return None
        if computes_integers(self._network):
            # Training may want the GPU; whoever pays for one to predict must hear that it is idle.
            _LOG.warning("an int8 model is computed on the CPU: the GPU that %s asks for is not used", VARIABLE)
            return None
        return chosen, copy.deepcopy(self._network).to(chosen)

    @property
    def network(self) -> Network:
        """The network on the CPU, in evaluation mode and without gradients of its weights."""
        return self._network

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Predictor:
        """Load ``model.safetensors``, ``config.json`` and ``conformal.json``; nothing in them is executed.

        Raises:
            IntegrityError: a file is absent or damaged, or the files don't belong together.
            ConfigurationError: from `fasttrack.models.device.device`.
        """
        config = _json(files, "config.json")
        try:
            calibration = Platt.from_json(config["calibration"])
            conformal = Conformal.from_json(_json(files, "conformal.json"))
            return cls(*_network(files, config), calibration, conformal)
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(error) from error

    @classmethod
    def uncalibrated(cls, files: Mapping[str, bytes]) -> Predictor:
        """Load what a fit wrote, before its evaluation: the probability is the sigmoid of the logit, the margin is 0.

        Raises:
            IntegrityError: as `from_files`.
        """
        try:
            return cls(*_network(files, _json(files, "config.json")), Platt(), Conformal(0.0, 0.0, 0))
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(error) from error

    def raw(self, batch: Batch) -> Raw:
        """Outputs before calibration, for any number of rows; many at a time by the GPU, if there is to be one."""
        if self._few is not None and 0 < len(batch) <= MOST_ROWS:
            return self._raw(*self._few(batch))
        gpu = self._on_gpu if len(batch) > _FEW else None
        forward = partial(_on, *gpu) if gpu else self._straight
        size = _GPU_CHUNK if gpu else _CHUNK
        if 0 < len(batch) <= size:
            return self._raw(*_forward(forward, batch))
        starts = range(0, len(batch), size)
        parts = [_forward(forward, batch.take(slice(start, start + size))) for start in starts]
        logit = np.concatenate([part[0] for part in parts]) if parts else np.zeros(0)
        ends = np.concatenate([part[1] for part in parts]) if parts else np.zeros((0, 3))
        return self._raw(logit, ends)

    def _raw(self, logit: Array, ends: Array) -> Raw:
        value = ends.astype(np.float64) * self._scale + self._center
        return Raw(logit.astype(np.float64), value[:, 0], value[:, 1], value[:, 2])

    def predict(self, batch: Batch) -> Prediction:
        """Predict encoded rows.

        Raises:
            InvalidRequestError: never; a batch of the encoder always fits (see `Encoder.encode` for what it refuses).
        """
        found = self.raw(batch)
        lower, upper = self.conformal.apply(found.value, (found.lower, found.upper), found.logit)
        parts = (self.calibration.apply(found.logit), found.value, lower, upper)
        return Prediction(*(part.astype(np.float32) for part in parts))

    def predict_rows(self, rows: Sequence[Mapping[str, Any]]) -> Prediction:
        """Predict raw rows, dicts by column name.

        Raises:
            InvalidRequestError: see `Encoder.encode`.
        """
        return self.predict(self.encoder.encode_rows(rows))


def _on(place: torch.device, network: Network, *inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    logit, ends = network(*(each.to(place) for each in inputs))
    return logit.cpu(), ends.cpu()


def _forward(forward: _Forward, batch: Batch) -> tuple[Array, Array]:
    with torch.inference_mode():
        inputs = [torch.from_numpy(np.ascontiguousarray(values)) for values in batch.tensors().values()]
        logit, ends = forward(*inputs)
    return logit.numpy(), ends.numpy()


def _network(files: Mapping[str, bytes], config: Mapping[str, Any]) -> tuple[Network, Encoder, tuple[float, float]]:
    encoder = Encoder.from_json(config["encoder"])
    # Initial weights are drawn and thrown away; the caller's random numbers must not depend on a model being loaded.
    with torch.random.fork_rng(devices=[]):
        try:
            network = build(config["architecture"], config["parameters"], Sizes.of(encoder))
        except ConfigurationError as error:
            raise _damaged(error) from error
    try:
        _fill(network, safetensors.torch.load(_file(files, "model.safetensors")), config.get("quantization"))
    except (safetensors.SafetensorError, RuntimeError) as error:
        raise _damaged(error) from error
    regression = config["regression"]
    return network, encoder, (float(regression["center"]), float(regression["scale"]))


def _fill(network: Network, state: Mapping[str, torch.Tensor], quantization: Any) -> None:
    if quantization == INT8:
        load_quantized(network, state)
        return
    if quantization is not None:
        raise ValueError(f"quantization {quantization!r} is unknown")
    for name, values in state.items():
        # torch would take int8 weights for float ones without a word.
        if not values.is_floating_point():
            raise ValueError(f"{name} is {values.dtype}")
    network.load_state_dict(state)


def _file(files: Mapping[str, bytes], name: str) -> bytes:
    if name not in files:
        raise IntegrityError(
            "the model package lacks a file.", where=name, fix="Evaluate and register the model again."
        )
    return files[name]


def _json(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = orjson.loads(_file(files, name))
    except orjson.JSONDecodeError as error:
        raise IntegrityError(f"not JSON: {error}.", where=name, fix="Register the model again.") from error
    return found


def _damaged(error: Exception) -> IntegrityError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return IntegrityError(
        f"weights and configuration don't belong together: {reason}",
        where="config.json",
        fix="Register the model again.",
    )
