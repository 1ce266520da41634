"""Online features by entity key, for the transformer and the explainer."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Protocol

from fasttrack import usecase as usecases
from fasttrack.errors import InvalidRequestError
from fasttrack.models import Batch, Encoder
from fasttrack.serving.rows import RawRequest, unpadded
from fasttrack.settings import Settings


class Store(Protocol):
    """What is needed of `fasttrack.features.online.OnlineStore`."""

    def read(self, entity_key_rows: list[dict[str, str]]) -> list[dict[str, Any]]:
        """Feature values by entity key, with ``_as_of``; NotFoundError for an unknown entity."""


class FeatureRows:
    """Turns raw requests into rows of feature values, and those into encoded batches.

    Args:
        encoder: the package's encoder.
        store: the online store; without one, requests by entity key are refused.
    """

    def __init__(self, encoder: Encoder, store: Store | None) -> None:
        self._encoder = encoder
        self._store = store
        names = [column.name for column in encoder.numeric] + [column.name for column in encoder.category]
        self._sequence = encoder.sequence.name if encoder.sequence is not None else ""
        if self._sequence:
            names += [self._sequence, f"{self._sequence}_length"]
        self._names = names

    async def columns(self, request: RawRequest) -> tuple[dict[str, list[Any]], str]:
        """Feature columns of a request, and the moment (RFC 3339) that its oldest online features are as of.

        The moment is empty for a request that brought its own features.

        Raises:
            NotFoundError: an entity is unknown.
            UnavailableError: the online store doesn't answer.
            InvalidRequestError: entity keys were sent to a server without an online store.
        """
        if request.columns is not None:
            return request.columns, ""
        if self._store is None:
            raise InvalidRequestError(
                "this server was started without --usecase, so it can't look entities up.", fix="Send the features."
            )
        # The client of the store is synchronous; the event loop must go on answering meanwhile.
        rows = await asyncio.to_thread(self._store.read, request.keys or [])
        columns = {name: [row.get(name) for row in rows] for name in self._names}
        if self._sequence:
            columns[self._sequence] = [unpadded(events or []) for events in columns[self._sequence]]
        return columns, _oldest(rows)

    def encode(self, columns: Mapping[str, Sequence[Any]]) -> Batch:
        """Encode feature columns.

        Raises:
            InvalidRequestError: a value is missing that the model needs, or has a wrong type.
        """
        return self._encoder.encode(columns)


def _oldest(rows: Sequence[Mapping[str, Any]]) -> str:
    moments = [row["_as_of"] for row in rows if row.get("_as_of") is not None]
    oldest = min(moments, default="")
    return oldest.isoformat().replace("+00:00", "Z") if isinstance(oldest, datetime) else str(oldest)


def open_store(path: str) -> Store | None:
    """The online store of the use case in a file; ``None`` without a file.

    Raises:
        UseCaseError: the file is malformed.
        ConfigurationError: the store isn't configured.
    """
    if not path:
        return None
    # Imported here: the store's libraries take seconds, and servers of raw features need none.
    from fasttrack.features.online import OnlineStore

    with without_torch():
        store: Store = OnlineStore(usecases.load(path), Settings.from_environment())
    return store


@contextmanager
def without_torch() -> Iterator[None]:
    """Let imports in the block find no torch, unless it is loaded already.

    Feast imports torch for images if it can, which costs a transformer 460 MB for nothing.
    """
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment]  # Python's own way to make an import fail
    try:
        yield
    finally:
        del sys.modules["torch"]
