"""What a drain's parent and its workers tell each other: one JSON object a line over stdin and stdout."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import orjson

from fasttrack import errors
from fasttrack.ingest.broker import Topic
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase, dump


@dataclass(frozen=True)
class Job:
    """One worker's orders.

    Attributes:
        usecase: the use case.
        settings: the addresses.
        cluster: the Kafka cluster's id.
        topics: the topic of each stream, as the parent found it.
        ends: for each stream the first offset of each partition that is not wanted; empty for ever.
        group: the consumer group.
        session_seconds: after how long without a heartbeat a worker counts as gone.
        batch_events: how many events of a partition are committed together at most.
    """

    usecase: UseCase
    settings: Settings
    cluster: str
    topics: dict[str, Topic]
    ends: dict[str, list[int]]
    group: str
    session_seconds: float
    batch_events: int

    def to_line(self) -> bytes:
        """This job as one line."""
        fields: dict[str, Any] = {
            "usecase": dump(self.usecase),
            "settings": self.settings.to_environment(),
            "cluster": self.cluster,
            "topics": {name: asdict(topic) for name, topic in self.topics.items()},
            "ends": self.ends,
            "group": self.group,
            "session_seconds": self.session_seconds,
            "batch_events": self.batch_events,
        }
        return orjson.dumps(fields) + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Job:
        """What `to_line` wrote."""
        fields = orjson.loads(line)
        fields["usecase"] = UseCase.model_validate(fields["usecase"])
        fields["settings"] = Settings.from_environment(fields["settings"])
        fields["topics"] = {name: Topic(**topic) for name, topic in fields["topics"].items()}
        return cls(**fields)


def failure(error: errors.FastTrackError) -> dict[str, Any]:
    """An error as JSON values."""
    return {"error": type(error).__name__, "what": error.what, "where": error.where, "fix": error.fix}


def raise_failure(fields: dict[str, Any]) -> None:
    """Raise the error that `failure` described, as the same class."""
    told = {"where": fields["where"], "fix": fields["fix"]}
    raise errors.rebuild(fields["error"], fields["what"], **told) or errors.StepError(fields["what"], **told)
