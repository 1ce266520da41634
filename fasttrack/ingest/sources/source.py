"""What a source is to the ingester: batches of records, and a position to go on from after each."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from fasttrack.errors import FastTrackError

#: Where to go on reading: JSON values that only the source itself understands.
Position = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Record:
    """One thing that a source holds; it becomes one message.

    Attributes:
        identity: tells it apart from every other record of the source, and is the same whenever it is read again
            (file and line, log position, key and cursor, partition and offset).
        fields: its values by the source's names; None if it can't be read, then `raw` is sent as it is and becomes
            a dead letter with its bytes.
        raw: what the source held, if it isn't `fields` alone; None without `fields`: a message without a value.
        key: the message's key, only for what passes through as it is.
    """

    identity: str
    fields: Mapping[str, Any] | None
    raw: bytes | None = None
    key: bytes | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Records in the source's order, and where to go on once all of them are in Kafka."""

    records: list[Record]
    position: Position


class Source(Protocol):
    """A connection to a source.

    Reading is repeatable: what was not `committed` is read again after `open`, with the same identities and in the same
    order; or else the source is `Unordered`.
    """

    def open(self, position: Position | None) -> None:
        """Begin after `position`; None: at the very beginning.

        Raises:
            UnavailableError: the source doesn't answer.
            ConfigurationError: there is no such file, table, topic, or no right to read it.
            DataLossError: the source no longer has what follows `position`.
        """

    def read(self, seconds: float) -> Batch | None:
        """The next batch, at most a few thousand records; None if nothing new came within `seconds`.

        Raises:
            UnavailableError: the source stopped answering; `open` and `read` may be tried again.
        """

    def committed(self, position: Position) -> None:
        """What lies before `position` is in Kafka for good: the source may forget it."""

    def lag(self) -> float | None:
        """How many records are waiting; None if the source can't tell."""

    def close(self) -> None:
        """Let go of connections; never fails."""


@runtime_checkable
class Unfinished(Protocol):
    """What a source may tell besides, for those who wait for its end."""

    def waiting(self) -> bool:
        """Whether something is to come though `read` gave None: files being written, an answer that was put off."""

    def broken(self) -> Mapping[str, str]:
        """What can't be read now and is tried again later: its name and why."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Something that went wrong and that the source itself tries again.

    Attributes:
        error: what.
        lasts: seconds for which it has been so; 0 if nobody who waits for the source's end need give up for it.
    """

    error: FastTrackError
    lasts: float = 0.0


@runtime_checkable
class Failing(Protocol):
    """A source that tries again by itself, and tells."""

    def failures(self) -> list[Failure]:
        """What went wrong since it was asked before, each attempt once."""


@runtime_checkable
class Unordered(Protocol):
    """A source that, read again, may give much else in between: an older file that came, another partition."""

    def expected(self, identities: Collection[str]) -> set[str]:
        """Those of the identities whose records are still to be given, as far as the source can tell by now."""
