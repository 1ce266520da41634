"""Stretches of offsets that somebody names, held against what the topics have."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fasttrack.errors import ConfigurationError, NotFoundError
from fasttrack.ingest.broker import Offsets, Topic
from fasttrack.ingest.numbers import LARGEST_OFFSET, place, whole
from fasttrack.usecase import UseCase

Spans = dict[str, list[tuple[int, int]]]

_FROM = re.compile(r"(\d+):(\d+)")
_RANGE = re.compile(r"(.+):(\d+):(\d+)-(\d+)")


@dataclass(frozen=True)
class Stretch:
    """Offsets of one partition, both ends included; without `last`, up to the partition's end.

    `topic` is a stream's name or its topic's.
    """

    topic: str
    partition: int
    first: int
    last: int | None = None

    def __str__(self) -> str:
        return f"{self.topic}:{self.partition}:{self.first}-{'' if self.last is None else self.last}"


def parse_from(texts: Sequence[str], stream: str) -> list[Stretch]:
    """Read ``PARTITION:OFFSET`` texts.

    Raises:
        ConfigurationError: one is not like that.
    """
    found = []
    for text in texts:
        match = _FROM.fullmatch(text)
        at = match and place(match[1], match[2])
        if not at:
            raise ConfigurationError(f"{text!r} is no place.", where="--from", fix="Write PARTITION:OFFSET, as 0:1200.")
        found.append(Stretch(stream, *at))
    return found


def parse_range(texts: Sequence[str]) -> list[Stretch]:
    """Read ``TOPIC:PARTITION:FIRST-LAST`` texts.

    Raises:
        ConfigurationError: one is not like that.
    """
    found = []
    for text in texts:
        match = _RANGE.fullmatch(text)
        at = match and place(match[2], match[3])
        last = match and whole(match[4], LARGEST_OFFSET)
        if not match or not at or last is None or at[1] > last:
            raise ConfigurationError(
                f"{text!r} is no range.", where="--range", fix="Write TOPIC:PARTITION:FIRST-LAST, as flights:0:100-199."
            )
        found.append(Stretch(match[1], *at, last))
    return found


def named(usecase: UseCase, streams: Sequence[str]) -> list[str]:
    """The named streams; all if none is.

    Raises:
        NotFoundError: there is no such stream.
    """
    for name in streams:
        if name not in usecase.streams:
            raise NotFoundError(
                "there is no such stream.", where=f"stream {name}", fix=f"There are {', '.join(usecase.streams)}."
            )
    return list(streams) or list(usecase.streams)


def spans(
    usecase: UseCase,
    topics: Mapping[str, Topic],
    held: Mapping[tuple[str, int], Offsets],
    stretches: Sequence[Stretch] = (),
) -> Spans:
    """For each topic the ``[low, high)`` of each partition that is meant.

    Args:
        usecase: whose streams.
        topics: the topics by name.
        held: what their partitions hold.
        stretches: all of everything if there are none; else topics without one are left out, and the other
            partitions of the named topics are empty.

    Raises:
        ConfigurationError: a stretch names what is not there, or reaches beyond what its partition holds.
    """
    if not stretches:
        return {n: [(held[n, p].earliest, held[n, p].latest) for p in range(t.partitions)] for n, t in topics.items()}
    found: Spans = {}
    for stretch in stretches:
        name = usecase.topic(stretch.topic) if stretch.topic in usecase.streams else stretch.topic
        if name not in topics:
            raise _unfit(stretch, f"no such topic; there are {', '.join(sorted(topics))}")
        if stretch.partition >= topics[name].partitions:
            raise _unfit(stretch, f"the topic has partitions 0 to {topics[name].partitions - 1}")
        has = held[name, stretch.partition]
        high = has.latest if stretch.last is None else stretch.last + 1
        if stretch.first < has.earliest or high > has.latest or stretch.first > high:
            holds = f"offsets {has.earliest} to {has.latest - 1}" if has.latest > has.earliest else "nothing"
            raise _unfit(stretch, f"the partition holds {holds}")
        rows = found.setdefault(name, [(held[name, p].earliest,) * 2 for p in range(topics[name].partitions)])
        if rows[stretch.partition][0] < rows[stretch.partition][1]:
            raise _unfit(stretch, "the partition is named twice")
        rows[stretch.partition] = (stretch.first, high)
    return found


def _unfit(stretch: Stretch, why: str) -> ConfigurationError:
    return ConfigurationError(f"{why}.", where=str(stretch), fix="Name what the topics hold.")
