"""What a drain tells at its end."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class StreamDrain:
    """What this drain (and any other at the same time) did with a stream.

    Attributes:
        events: messages between the marks at its start and at its end; offsets that hold none (transactions,
            compaction) are not counted.
        landed, duplicates, dead_letters: what they became; they add up to `events`.
        late: how many events this drain's own workers landed after the watermark had passed them.
        watermark: the newest that they came to in any partition (ISO 8601, UTC); None if they landed nothing.
    """

    events: int = 0
    landed: int = 0
    duplicates: int = 0
    dead_letters: int = 0
    late: int = 0
    watermark: str | None = None


@dataclass
class DrainReport:
    """The outcome of a drain.

    Attributes:
        streams: by stream.
        files: Parquet files written.
        bytes: their size.
        seconds: how long it took.
        workers: processes started (more than asked for if some died).
        complete: everything that was there at the start is in the lake.
        reused: there was nothing to do.
    """

    streams: dict[str, StreamDrain] = field(default_factory=dict)
    files: int = 0
    bytes: int = 0
    seconds: float = 0.0
    workers: int = 0
    complete: bool = True
    reused: bool = False
