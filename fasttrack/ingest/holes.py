"""Which offsets of a partition hold a message: compaction, aborted and finished transactions leave some that don't."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import cast

import numpy as np
import numpy.typing as npt

from fasttrack.ingest.broker import Broker
from fasttrack.ingest.scan import scan

# Reading on over this many offsets is faster than asking for another place.
_NEAR = 20_000

Offsets = npt.NDArray[np.int64]


def runs(offsets: Offsets, near: int = 1) -> list[tuple[int, int]]:
    """Ascending offsets as runs ``(first, last)``: 3, 4, 5, 9 gives (3, 5), (9, 9).

    Args:
        near: how far apart neighbours of a run are at most.
    """
    if not len(offsets):
        return []
    breaks = np.flatnonzero(np.diff(offsets) > near)
    firsts = offsets[np.concatenate([[0], breaks + 1])]
    lasts = offsets[np.concatenate([breaks, [len(offsets) - 1]])]
    return list(zip(firsts.tolist(), lasts.tolist(), strict=True))


def filled(broker: Broker, topic: str, partition: int, holes: Sequence[tuple[int, int]]) -> bool:
    """Whether a consumer finds a message in any of these ``[low, high)``, ascending, as the broker has it now.

    Args:
        holes: below the partition's end, and not below its beginning.

    Raises:
        UnavailableError: the broker does not answer.
        DataLossError: it has deleted the beginning meanwhile.
    """
    lows, highs = (np.array(bounds, np.int64) for bounds in zip(*holes, strict=True))
    breaks = np.flatnonzero(lows[1:] - highs[:-1] > _NEAR) + 1
    for near in np.split(np.arange(len(lows)), breaks):
        with closing(scan(broker, topic, partition, int(lows[near[0]]), int(highs[near[-1]]) - 1)) as messages:
            for message in messages:
                at = int(np.searchsorted(highs, cast(int, message.offset()), side="right"))
                if at < len(lows) and lows[at] <= cast(int, message.offset()):
                    return True
    return False


def present(broker: Broker, topic: str, partition: int, offsets: Offsets) -> Offsets:
    """Those of `offsets` (ascending) at which a consumer finds a message, as the broker has it now.

    Args:
        offsets: below the partition's end, and not below its beginning.

    Raises:
        UnavailableError: the broker does not answer.
        DataLossError: it has deleted the beginning meanwhile.
    """
    found = [
        np.fromiter((message.offset() for message in scan(broker, topic, partition, first, last)), np.int64)
        for first, last in runs(offsets, _NEAR)
    ]
    return offsets[np.isin(offsets, np.concatenate(found))] if found else offsets
