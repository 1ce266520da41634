"""Where events come from: what `fasttrack ingest` reads and publishes to the streams' topics."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import Field

from fasttrack.usecase.durations import Duration
from fasttrack.usecase.streams import Strict

_HELD_BY = "the environment variable that holds it: no secret stands in a use case"
_TABLE = r"^[^.]{1,63}(\.[^.]{1,63})?$"
Variable = Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$", description=_HELD_BY)]


class SourceBase(Strict):
    """What every source has."""

    stream: str = Field(description="the stream that its records become events of")
    fields: dict[str, str] = Field({}, description="event field: the record's field; default: the same name")
    constants: dict[str, Any] = Field({}, description="event field: a value that every event gets")
    description: str = ""


class FilesSource(SourceBase):
    """New files of a folder or of an S3 prefix, each read once."""

    kind: Literal["files"]
    path: str = Field(description="a folder, or s3://bucket/prefix")
    glob: str = Field("*", description="which names, such as *.csv")
    format: Literal["csv", "jsonl", "parquet"]
    settle: Duration = Field(timedelta(seconds=5), description="a file that changed since is still being written")
    poll: Duration = Field(timedelta(seconds=10), description="how often to look for new files")


class RestSource(SourceBase):
    """A JSON API that is asked again and again."""

    kind: Literal["rest"]
    url: str = Field(pattern=r"^https?://", description="the address of the first page")
    records: str = Field("", description="dotted path of the list in an answer; default: the answer is the list")
    identity: tuple[str, ...] = Field(min_length=1, strict=False, description="the fields that tell a record apart")
    cursor: str | None = Field(None, description="dotted path of the next page's cursor in an answer")
    cursor_parameter: str = Field("cursor", description="the query parameter that takes it")
    poll: Duration = Field(timedelta(seconds=30), description="how often to ask when there is nothing new")
    timeout: Duration = Field(timedelta(seconds=30), description="how long an answer may take")
    token_env: Variable | None = Field(None, description=f"a bearer token; {_HELD_BY}")


class WebhookSource(SourceBase):
    """Events that others POST to the gateway, at /v1/usecases/{name}/webhooks/{source}."""

    kind: Literal["webhook"]
    secret_env: Variable = Field(description=f"the shared secret of the HMAC-SHA256 signature; {_HELD_BY}")
    max_bytes: int = Field(2**20, gt=0, description="largest allowed request body")


class PostgresSource(SourceBase):
    """A table or view: a snapshot, then the rows whose cursor column grew."""

    kind: Literal["postgres"]
    connection_env: Variable = Field(description=f"a libpq connection string; {_HELD_BY}")
    table: str = Field(pattern=_TABLE, description="[schema.]table")
    cursor: str = Field(
        description="a column that grows with every insert and update, by the server's now() or a sequence "
        "(CACHE 1); the transaction that writes a row takes its value"
    )
    keys: tuple[str, ...] = Field(min_length=1, strict=False, description="the columns that tell a row apart")
    overlap: Duration = Field(
        timedelta(0),
        description="how far the clocks differ that fill the cursor column: new rows are read this much later. On a "
        "standby, of a foreign table or a materialized view: the longest that a transaction stays open",
    )
    poll: Duration = Field(timedelta(seconds=5), description="how often to look for new rows")
    batch: int = Field(5_000, gt=0, le=50_000, description="rows a query")


class PostgresReplicationSource(SourceBase):
    """A table's changes from a logical replication slot, after a snapshot that the slot begins with.

    Besides the row's columns a change has `_change` (insert, update, delete), `_change_id` (no other change has it; the
    same whenever it is read again), and of its transaction `_lsn` and `_committed_at`.
    """

    kind: Literal["postgres_replication"]
    connection_env: Variable = Field(description=f"a libpq connection string; {_HELD_BY}")
    table: str = Field(pattern=_TABLE, description="[schema.]table")
    keys: tuple[str, ...] = Field(min_length=1, strict=False, description="the columns that tell a row apart")
    slot: str = Field("", pattern=r"^[a-z0-9_]{0,63}$", description="default: fasttrack_<use case>_<source>")
    changes: tuple[Literal["insert", "update", "delete"], ...] = Field(
        ("insert", "update"), strict=False, description="which become events"
    )
    snapshot: bool = Field(True, description="begin with the rows that are there")
    connector: bool = Field(
        False, description="on a cluster, let a Debezium connector of Strimzi's Kafka Connect read it"
    )


class StreamSource(SourceBase):
    """A topic of another Kafka cluster (or of the same)."""

    kind: Literal["stream"]
    connection_env: Variable = Field(description="the environment variable that holds host:port[,host:port]")
    topic: str = Field(min_length=1)
    value: Literal["json", "event"] = Field(
        "json", description="json: documents whose fields are mapped; event: bytes that pass through as they are"
    )


#: What a replicated change has of its transaction: all rows that it wrote share it.
OF_TRANSACTION = ("_change", "_lsn", "_committed_at")

Source = Annotated[
    FilesSource | RestSource | WebhookSource | PostgresSource | PostgresReplicationSource | StreamSource,
    Field(discriminator="kind"),
]
