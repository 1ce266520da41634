"""Where a source's history begins: what all of its positions have in common."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any

from psycopg2.extras import LogicalReplicationConnection

from fasttrack.ingest.sources.source import Position

_LONGEST = 100


def identify(stream: LogicalReplicationConnection) -> tuple[str, int]:
    """A server's system identifier, and its log's timeline."""
    with stream.cursor() as cursor:
        cursor.execute("IDENTIFY_SYSTEM")
        server, timeline, *_ = cursor.fetchone() or ("", 0)
    return str(server), int(timeline)


@dataclass(frozen=True)
class Published:
    """A table and the publication that tells its changes, by their oids, which no other one ever gets.

    Attributes:
        table: also after it was renamed.
        publication: of the slot's name.
        member: the table's entry in it; 0 where it has none, as it is of all tables or of a schema's.
    """

    table: int
    publication: int
    member: int


@dataclass(frozen=True)
class Origin(Published):
    """What is read of which server's log, and where and when that began.

    Attributes:
        server: the server's system identifier.
        timeline: of its log when the slot was made. A server that was set back to an earlier time goes on in another
            one, and gives places and transactions' ids that were there before a second time.
        began_at: when the slot was made, as ISO 8601.
        began_lsn: where it begins.
    """

    server: str
    timeline: int
    began_at: str
    began_lsn: str

    @classmethod
    def of(cls, position: Position, now: Published, timeline: int) -> Origin:
        """What `to_position` wrote; what older positions lack is as it is `now`."""
        known = {**asdict(now), "timeline": timeline, **position}
        return cls(**{each.name: known[each.name] for each in fields(cls)})

    def to_position(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    def inserted(self, identity: str) -> Mapping[str, Any]:
        """What a row of the snapshot is told with: it counts as inserted where and when the slot was made."""
        return self.told("insert", self.began_lsn, datetime.fromisoformat(self.began_at), identity)

    def told(self, change: str, lsn: str, at: datetime, identity: str) -> dict[str, Any]:
        """What a change is told with, besides the row's columns.

        Args:
            change: insert, update or delete.
            lsn: where its transaction was committed.
            at: when.
            identity: tells it from all other changes of the source.
        """
        return {"_change": change, "_change_id": self._change_id(identity), "_lsn": lsn, "_committed_at": at}

    def _change_id(self, identity: str) -> str:
        """An id that no other change has, whichever server or source it comes from, and that fits most contracts."""
        if len(identity) > _LONGEST:
            identity = f"sha256:{hashlib.sha256(identity.encode('utf-8', 'surrogateescape')).hexdigest()}"
        return f"{self.server}.{self.timeline}:{identity}"
