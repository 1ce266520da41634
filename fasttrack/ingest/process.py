"""The process of a drain worker: `fasttrack.ingest.work`, without what only makes its start slow."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType


class Without(MetaPathFinder):
    """Makes packages look as if they were not installed.

    Args:
        names: top-level packages.
    """

    def __init__(self, *names: str) -> None:
        self._names = frozenset(names)

    def find_spec(self, name: str, _: Sequence[str] | None, __: ModuleType | None = None) -> None:
        """Nothing, for others to look.

        Raises:
            ModuleNotFoundError: it is one of the packages.
        """
        if name in self._names:
            raise ModuleNotFoundError(f"{name} is left out of this process.", name=name)


def main() -> int:
    """See `fasttrack.ingest.work.main`."""
    # Arrow imports pandas wherever it is installed as soon as it makes a scalar: half a second of processor time.
    sys.meta_path.insert(0, Without("pandas"))
    from fasttrack.ingest.work import main as work

    return work()


if __name__ == "__main__":
    sys.exit(main())
