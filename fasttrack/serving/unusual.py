"""Rows that are unlike what the model was trained on: told in the answer, or refused, as the use case says."""

from __future__ import annotations

from typing import Final

import numpy as np

from fasttrack.errors import ConfigurationError, InvalidRequestError
from fasttrack.models import Batch
from fasttrack.serving.package import ServedPackage
from fasttrack.usecase import UseCase
from fasttrack.usecase.serving import Serving

#: The response parameter: which rows, from 0, with commas between.
PARAMETER: Final = "out_of_distribution"
_SHOWN: Final = 100


class UnusualRows:
    """Judges encoded rows by the package's `novelty.json`.

    Args:
        package: the package; one of before that file says nothing of any row.
        usecase: says what is done; without one, rows are told.

    Raises:
        ConfigurationError: they are to be refused, and the package can't tell which.
    """

    def __init__(self, package: ServedPackage, usecase: UseCase | None) -> None:
        serving = Serving() if usecase is None else usecase.serving
        self._refuse = serving.out_of_distribution == "refuse"
        self._novelty = None if serving.out_of_distribution == "ignore" else package.novelty
        if self._refuse and self._novelty is None:
            raise ConfigurationError(
                "the package can't tell which rows are unlike its training rows, and the use case refuses such.",
                where="serving.out_of_distribution",
                fix="Train and publish the model again, or say flag.",
            )
        self._above = np.inf if self._novelty is None else self._novelty.threshold(serving.novelty_level)

    def judge(self, batch: Batch) -> dict[str, str]:
        """Response parameters: `PARAMETER`, if rows are unusual.

        Raises:
            InvalidRequestError: they are, and the use case refuses such.
        """
        if self._novelty is None:
            return {}
        unusual = np.flatnonzero(self._novelty.scores(batch) > self._above)
        if not len(unusual):
            return {}
        rows = ",".join(map(str, unusual[:_SHOWN].tolist())) + (",..." if len(unusual) > _SHOWN else "")
        if self._refuse:
            raise InvalidRequestError(
                "the features together are unlike the rows that the model was trained on.",
                where=f"row {rows}",
                fix="Check the values; the use case refuses such rows (serving.out_of_distribution).",
            )
        return {PARAMETER: rows}
