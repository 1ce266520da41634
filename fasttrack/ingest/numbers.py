"""Whole numbers that somebody writes for partitions and offsets: as large as Kafka and the tables have them."""

from __future__ import annotations

LARGEST_PARTITION = 2**31 - 1
LARGEST_OFFSET = 2**63 - 1


def whole(text: str, largest: int) -> int | None:
    """The number that decimal digits write; None if they don't, or if it is above `largest`."""
    # Python itself refuses to read some thousand digits.
    if not text.isdecimal() or len(text.lstrip("0")) > len(str(largest)):
        return None
    found = int(text.lstrip("0") or "0")
    return found if found <= largest else None


def place(partition: str, offset: str) -> tuple[int, int] | None:
    """Partition and offset; None if one of them can't be one."""
    found = whole(partition, LARGEST_PARTITION), whole(offset, LARGEST_OFFSET)
    return None if found[0] is None or found[1] is None else (found[0], found[1])
