"""From the stored values of a view to the feature columns that are served."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fasttrack.errors import IntegrityError
from fasttrack.features.online.definitions import AS_OF, ASKED_AT, View
from fasttrack.features.online.layout import Value
from fasttrack.features.plan import LENGTH_SUFFIX
from fasttrack.usecase import Column

Row = dict[str, Any]


class Served:
    """The feature columns of one view.

    Args:
        view: the view.
        columns: all feature columns of the use case, by name.

    Attributes:
        names: of the columns; a sequence also has its length.
    """

    def __init__(self, view: View, columns: Mapping[str, Column]) -> None:
        self._view = view.name
        features = [columns[name] for name in view.schema.names if name in columns and name not in (AS_OF, ASKED_AT)]
        self._sequences = [column for column in features if column.role == "sequence"]
        self._scalars = [column.name for column in features if column.role != "sequence"]
        # The kernel's answer for a key without events.
        self._counts = [column.name for column in features if column.aggregate == "count"]
        self.names = [*self._scalars, *(n for c in self._sequences for n in (c.name, c.name + LENGTH_SUFFIX))]

    def present(self, stored: Mapping[str, Value]) -> Row:
        """The columns of a key that is stored.

        Raises:
            IntegrityError: a sequence isn't whole events.
        """
        # As `number`, whose call would cost more than what it does.
        row: Row = {name: value if (value := stored[name]) == value else None for name in self._scalars}
        for column in self._sequences:
            length = stored[column.name + LENGTH_SUFFIX]
            row[column.name] = self._events(column, stored[column.name])
            row[column.name + LENGTH_SUFFIX] = int(length) if isinstance(length, int) else 0
        return row

    def absent(self, known: bool) -> Row:
        """The columns of a key without events within reach; if the key isn't `known`, not even their count is."""
        row: Row = dict.fromkeys(self._scalars)
        if known:
            row.update(dict.fromkeys(self._counts, 0.0))
        for column in self._sequences:
            row[column.name] = self._events(column, None)
            row[column.name + LENGTH_SUFFIX] = 0
        return row

    def _events(self, column: Column, flat: Value) -> list[list[float]]:
        size = len(column.channels)
        if not isinstance(flat, np.ndarray) or not len(flat):
            return [[float("nan")] * size for _ in range(column.length)]
        if len(flat) % size:
            raise IntegrityError(
                f"sequence {column.name!r} has {len(flat)} numbers, which aren't events of {size}.",
                where=f"view {self._view}",
                fix="Run the features step again.",
            )
        events: list[list[float]] = flat.reshape(-1, size).tolist()
        return events


def number(value: Any) -> Any:
    """The value itself; ``None`` for NaN."""
    return value if value == value else None
