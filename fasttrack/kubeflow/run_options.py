"""What `fasttrack compile` was told and the launchers have to know: it travels as variables of the pipeline's steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fasttrack.errors import ConfigurationError
from fasttrack.kubeflow.sizes import Sizes, parse_sizes, sizes_text

#: Steps that make objects of the cluster's operators.
LAUNCHERS = ("features", "tune", "train", "publish")

_GPUS = "FASTTRACK_GPUS"
_EXECUTORS = "FASTTRACK_EXECUTORS"
_SIZES = "FASTTRACK_SIZES"
_WORDS = {"true": True, "false": False}


@dataclass(frozen=True)
class RunOptions:
    """What a run makes on a cluster, beyond what the use case says.

    Attributes:
        gpus: train and predict on nodes with GPUs.
        executors: most Spark executors at a time.
        sizes: of pods, where the defaults don't fit.
    """

    gpus: bool = False
    executors: int = 4
    sizes: Sizes = field(default_factory=dict)

    def variables(self) -> list[dict[str, str]]:
        """As a container's ``env``."""
        made = {_GPUS: str(self.gpus).lower(), _EXECUTORS: str(self.executors), _SIZES: sizes_text(self.sizes)}
        return [{"name": name, "value": value} for name, value in made.items()]

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> RunOptions:
        """The same again.

        Raises:
            ConfigurationError: one is malformed.
        """
        gpus, executors = environ.get(_GPUS, "false"), environ.get(_EXECUTORS, str(cls.executors))
        if gpus not in _WORDS:
            raise ConfigurationError(f"{gpus!r} is neither true nor false.", where=_GPUS, fix="Compile again.")
        if not executors.isdecimal() or not int(executors):
            raise ConfigurationError(f"{executors!r} is no number from 1.", where=_EXECUTORS, fix="Compile again.")
        return cls(_WORDS[gpus], int(executors), parse_sizes(environ.get(_SIZES, "").split()))
