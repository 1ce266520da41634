"""What became of one source's records."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class SourceReport:
    """What became of one source's records.

    Attributes:
        stream: where they went.
        read: records that the source gave: `sent` + `skipped`.
        sent: messages that the broker has.
        skipped: sent by an earlier run that couldn't record it any more.
        unparsable: of those read, how many are raw bytes, for the drain to refuse.
        errors: failures that were tried again.
        lag: how many records (of files: files) wait; None if the source can't tell.
        broken: what couldn't be read at all and is tried again by the next run: its name and why.
        complete: the source was read to its end.
        seconds: how long it took.
    """

    stream: str
    read: int = 0
    sent: int = 0
    skipped: int = 0
    unparsable: int = 0
    errors: int = 0
    lag: float | None = None
    broken: dict[str, str] = field(default_factory=dict)
    complete: bool = False
    seconds: float = 0.0
