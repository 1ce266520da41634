"""Online features by entity key or event, for the transformer and the explainer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from fasttrack.errors import InvalidRequestError
from fasttrack.ingest.rowcheck import Rejected, RowChecker
from fasttrack.models import Batch, Encoder
from fasttrack.serving.rows import RawRequest, unpadded
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase


class Store(Protocol):
    """What is needed of `fasttrack.features.online.OnlineStore`."""

    async def read_async(self, entity_key_rows: list[dict[str, str]]) -> list[dict[str, Any]]:
        """Feature values by entity key, with ``_as_of``; NotFoundError for an unknown entity."""

    def complete(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """Feature values of an event of the prediction stream, with ``_as_of``."""


class CheckedStore:
    """An online store whose events keep their stream's contract, as events do that come through Kafka.

    Args:
        store: the store.
        usecase: has the contract of the prediction stream.
    """

    def __init__(self, store: Store, usecase: UseCase) -> None:
        self._store = store
        self._stream = usecase.prediction.stream
        self._checker = RowChecker(usecase.streams[self._stream])

    async def read_async(self, entity_key_rows: list[dict[str, str]]) -> list[dict[str, Any]]:
        """See `Store`."""
        return await self._store.read_async(entity_key_rows)

    def complete(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """See `Store`; fields that are left out or null count as unknown.

        Raises:
            InvalidRequestError: a field breaks the contract.
        """
        try:
            fields = self._checker.fields(raw)
        except Rejected as error:
            raise InvalidRequestError(
                f"{error.rejection.detail} ({error.rejection.reason}).",
                where="event",
                fix=f"Send fields of stream {self._stream!r} as its contract has them.",
            ) from error
        return self._store.complete(fields)


class FeatureRows:
    """Turns raw requests into rows of feature values, and those into encoded batches.

    Args:
        encoder: the package's encoder.
        store: the online store; without one, requests by entity key or event are refused.
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
            InvalidRequestError: entity keys or events were sent to a server without an online store, or an event
                breaks its contract.
        """
        if request.columns is not None:
            return request.columns, ""
        if self._store is None:
            raise InvalidRequestError(
                "this server was started without --usecase, so it can't look entities up.", fix="Send the features."
            )
        if request.events is not None:
            # Each is a kernel's work; the event loop must go on answering meanwhile.
            rows = await asyncio.to_thread(_completed, self._store, request.events)
        else:
            rows = await self._store.read_async(request.keys or [])
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


def _completed(store: Store, events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [store.complete(event) for event in events]


def _oldest(rows: Sequence[Mapping[str, Any]]) -> str:
    moments = [row["_as_of"] for row in rows if row.get("_as_of") is not None]
    oldest = min(moments, default="")
    return oldest.isoformat().replace("+00:00", "Z") if isinstance(oldest, datetime) else str(oldest)


def open_store(usecase: UseCase | None) -> Store | None:
    """The online store of a use case; ``None`` without one.

    Raises:
        ConfigurationError: the store isn't configured.
    """
    if usecase is None:
        return None
    # Imported here: servers of raw features need no Redis.
    from fasttrack.features.online import OnlineStore

    return CheckedStore(OnlineStore(usecase, Settings.from_environment()), usecase)
