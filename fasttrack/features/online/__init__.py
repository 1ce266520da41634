"""The online store: the newest values of every entity in Redis, defined, written and read through Feast."""

from fasttrack.features.online.materialization import Materialization, materialize
from fasttrack.features.online.store import OnlineStore

__all__ = ["Materialization", "OnlineStore", "materialize"]
