"""The online store: the newest values of every entity in Redis, defined and written by Feast, read from its layout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fasttrack.features.online.store import OnlineStore

if TYPE_CHECKING:
    from fasttrack.features.online.materialization import Materialization, materialize

__all__ = ["Materialization", "OnlineStore", "materialize"]


def __getattr__(name: str) -> Any:
    # Servers only read, and have neither Feast nor the lake's libraries.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from fasttrack.features.online import materialization

    return getattr(materialization, name)
