"""The search space of a use case, in no tuner's language: a flat list whose names say what depends on what."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fasttrack.errors import ConfigurationError
from fasttrack.usecase import UseCase
from fasttrack.usecase.learning import Candidate, ChoiceParameter, FloatParameter, IntParameter, Parameter

#: Chooses the candidate; Katib knows no conditional parameters, so the other dimensions carry its value as prefix.
ARCHITECTURE = "architecture"
Value = int | float | str


@dataclass(frozen=True)
class Dimension:
    """One hyperparameter of one candidate.

    Attributes:
        name: ``<architecture>_<parameter>``, unique.
        architecture: counts only when this candidate is chosen.
        parameter: the candidate's own name for it.
        range: what values it may take.
    """

    name: str
    architecture: str
    parameter: str
    range: Parameter

    def middle(self) -> Value:
        """A sane first value: the (geometric) middle of the range, or of the choices."""
        match self.range:
            case FloatParameter(low=low, high=high, log=log):
                return math.sqrt(low * high) if log else (low + high) / 2
            case IntParameter(low=low, high=high, step=step):
                return low + (high - low) // step // 2 * step
            case ChoiceParameter(choices=choices):
                return choices[len(choices) // 2]

    def parse(self, text: Value) -> Value:
        """A tuner's text as a value of this dimension.

        Raises:
            ConfigurationError: it is not in the range.
        """
        found: Value | None = None
        try:
            match self.range:
                case FloatParameter(low=low, high=high):
                    found = float(text) if low <= float(text) <= high else None
                case IntParameter(low=low, high=high):
                    found = int(text) if low <= int(text) <= high else None
                case ChoiceParameter(choices=choices):
                    found = next((choice for choice in choices if str(choice) == str(text)), None)
        except ValueError:
            found = None
        if found is None:
            raise ConfigurationError(
                f"{text!r} is not a value of {self.name}.",
                where=self.name,
                fix="Compile the experiment from this use case again.",
            )
        return found


def architectures(usecase: UseCase) -> list[str]:
    """The candidates, in the order of the use case.

    Raises:
        ConfigurationError: one is listed twice.
    """
    found: list[str] = [candidate.architecture for candidate in usecase.models]
    if len(set(found)) != len(found):
        raise ConfigurationError(f"an architecture is listed twice: {found}.", where="models", fix="List each once.")
    return found


def space(usecase: UseCase) -> list[Dimension]:
    """All dimensions, candidate by candidate; see `Dimension`."""
    architectures(usecase)
    return [dimension for candidate in usecase.models for dimension in dimensions(candidate)]


def dimensions(candidate: Candidate) -> list[Dimension]:
    """The dimensions of one candidate."""
    architecture = candidate.architecture
    return [Dimension(f"{architecture}_{name}", architecture, name, found) for name, found in candidate.search.items()]


def select(usecase: UseCase, assignment: Mapping[str, Value]) -> tuple[str, dict[str, Any]]:
    """The candidate and hyperparameters of one flat assignment; those of other candidates are left out.

    Args:
        usecase: the use case.
        assignment: by dimension name, values or their text (Katib hands out text).

    Raises:
        ConfigurationError: the architecture is absent or unknown, or a value is absent or out of range.
    """
    chosen = str(assignment.get(ARCHITECTURE))
    if chosen not in architectures(usecase):
        raise ConfigurationError(
            f"{chosen!r} is no candidate.", where=ARCHITECTURE, fix=f"Choose from {architectures(usecase)}."
        )
    wanted = [dimension for dimension in space(usecase) if dimension.architecture == chosen]
    absent = [dimension.name for dimension in wanted if dimension.name not in assignment]
    if absent:
        raise ConfigurationError(f"{absent[0]} has no value.", where=absent[0], fix="Give a value to every dimension.")
    return chosen, {dimension.parameter: dimension.parse(assignment[dimension.name]) for dimension in wanted}
