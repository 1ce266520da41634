"""Where a model is computed: on CPUs, or on a GPU where ``FASTTRACK_DEVICE=cuda`` asks for one."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch

from fasttrack.errors import ConfigurationError

#: Set by the pods of GPU nodes, and by whoever has a GPU at home.
VARIABLE = "FASTTRACK_DEVICE"

_CPU = "cpu"
_CUDA = "cuda"


def device(processes: int = 1, environ: Mapping[str, str] | None = None) -> torch.device:
    """The kind of device to compute on.

    Never chosen by what happens to be there: a pod that holds a GPU and computes on its CPU must not go unnoticed.

    Args:
        processes: how many processes of this machine compute; each needs a GPU of its own (NCCL refuses to share one).
        environ: instead of ``os.environ``.

    Raises:
        ConfigurationError: ``FASTTRACK_DEVICE`` is neither cpu nor cuda, or there aren't enough GPUs.
    """
    named = (os.environ if environ is None else environ).get(VARIABLE) or _CPU
    if named == _CPU:
        return torch.device(_CPU)
    if named != _CUDA:
        raise ConfigurationError(f"{named!r} is no device.", where=VARIABLE, fix="Set it to cpu or cuda.")
    found = torch.cuda.device_count()
    if found < processes:
        raise ConfigurationError(
            f"{processes} processes want a GPU each, and torch {torch.__version__} sees {found}.",
            where=VARIABLE,
            fix="Ask for GPUs (compile --gpus), look at the driver with nvidia-smi, or set it to cpu.",
        )
    return torch.device(_CUDA)
