"""Feast definitions generated from a use case: nobody writes them twice."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlsplit

import pyarrow as pa

from fasttrack.errors import ConfigurationError, UnavailableError
from fasttrack.features.plan import PREDICTION_TIME, EntityPlan, entity_plans, field_definitions, table_schema
from fasttrack.redis_wire import secured
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase

if TYPE_CHECKING:
    from feast import Entity, FeatureStore, FeatureView

AS_OF = "as_of_us"
ASKED_AT = "prediction_time_us"
KEY_PREFIX = "key_"
MARKER_VIEW = "fasttrack_materialization"
MARKER_KEY = "fasttrack_usecase"


@dataclass(frozen=True)
class View:
    """One entity's values in the online store.

    Attributes:
        name: of the Feast feature view.
        keys: its join keys.
        schema: its columns without the keys; the first is `AS_OF`, the moment (int64 microseconds) they were computed
            for, which is never null: Feast silently drops a write in which all features are.
    """

    name: str
    keys: tuple[str, ...]
    schema: pa.Schema


def plans(usecase: UseCase) -> list[EntityPlan]:
    """The entity plans without the label, the prediction entity's first."""
    return [plan.without_label() for plan in entity_plans(usecase)]


def views(usecase: UseCase) -> list[View]:
    """The view of each entity plan, in the order of `plans`; the first also has the prediction event's own fields."""
    moment = pa.field(AS_OF, pa.int64())
    found = []
    for number, plan in enumerate(plans(usecase)):
        fields = [moment, *plan.schema()]
        if number == 0:
            table = table_schema(usecase)
            fields.append(pa.field(ASKED_AT, pa.int64()))
            fields += [pa.field(KEY_PREFIX + key, pa.string()) for key in foreign_keys(usecase)]
            fields += [table.field(name) for name, _ in field_definitions(usecase)]
        found.append(View(plan.entity, plan.keys, pa.schema(fields)))
    return found


def marker(usecase: UseCase) -> View:
    """The view with one row: the moment of the newest complete materialization."""
    return View(MARKER_VIEW, (MARKER_KEY,), pa.schema([pa.field(AS_OF, pa.int64())]))


def foreign_keys(usecase: UseCase) -> list[str]:
    """The fields of the prediction event that identify the other entities."""
    own = usecase.entities[usecase.prediction.entity].keys
    return [key for key in dict.fromkeys(k for plan in plans(usecase) for k in plan.keys) if key not in own]


def project(usecase: UseCase) -> str:
    """Feast's name of the use case's project; part of each key in Redis."""
    return usecase.name.replace("-", "_")


def load_feast() -> None:
    """Import Feast, which takes seconds; no other thread may import torch meanwhile. A second call costs nothing.

    It is spared what it doesn't need here: torch (for images, if it is installed), and the rewriting of its own
    functions for type checks at run time, together three quarters of the time.
    """
    if "feast" in sys.modules:
        return
    import typeguard

    torch, typechecked = sys.modules.get("torch"), typeguard.typechecked
    if torch is None:
        sys.modules["torch"] = None  # type: ignore[assignment]  # Python's own way to make an import fail
    typeguard.typechecked = lambda target=None, **_: (lambda given: given) if target is None else target  # type: ignore[assignment]
    try:
        import feast  # noqa: F401
    finally:
        typeguard.typechecked = typechecked
        if torch is None:
            sys.modules.pop("torch", None)


def feature_store(usecase: UseCase, settings: Settings, registry: Path) -> FeatureStore:
    """A Feast store whose registry file holds the use case's definitions.

    Args:
        usecase: the use case.
        settings: where Redis is.
        registry: the registry file; made if it is missing.

    Raises:
        ConfigurationError: the Redis URL can't be used.
        UnavailableError: Redis doesn't answer.
    """
    load_feast()
    from feast import Entity, FeatureStore, RepoConfig, ValueType

    config = RepoConfig(
        project=project(usecase),
        provider="local",
        registry={"registry_type": "file", "path": str(registry), "cache_ttl_seconds": 0},
        online_store={
            "type": "redis",
            "connection_string": connection_string(secured(settings.require("redis"), settings)),
            # Without this, Feast drops a second write for the same moment, and so the events that came late.
            "skip_dedup": True,
            # Garbage goes after a while; what is stale is refused long before.
            "key_ttl_seconds": 2 * max(int(usecase.serving.online_freshness.total_seconds()), 3600),
        },
        offline_store={"type": "file"},
        entity_key_serialization_version=3,
    )
    store = FeatureStore(config=config)
    every = [*views(usecase), marker(usecase)]
    keys = dict.fromkeys(key for view in every for key in view.keys)
    entities = {key: Entity(name=key, join_keys=[key], value_type=ValueType.STRING) for key in keys}
    with redis_errors(settings):
        store.apply([*entities.values(), *(_feast_view(usecase, settings, view, entities) for view in every)])
    return store


def _feast_view(usecase: UseCase, settings: Settings, view: View, entities: dict[str, Entity]) -> FeatureView:
    from feast import FeatureView, Field, FileSource
    from feast.types import Array, Float64, Int64, String

    from fasttrack.lake.tables import root  # readers of the online store have no Delta library

    kinds = {pa.float64(): Float64, pa.string(): String, pa.int64(): Int64, pa.int32(): Int64}
    columns = [Field(name=f.name, dtype=kinds.get(f.type, Array(Float64))) for f in view.schema]
    # Feast asks for an offline source; ours is the feature table, which training reads without Feast.
    source = FileSource(
        name=f"{view.name}_features", path=f"{root(settings, usecase)}/features", timestamp_field=PREDICTION_TIME
    )
    return FeatureView(
        name=view.name,
        entities=[entities[key] for key in view.keys],
        # Age is judged by this package against the prediction time: Feast would compare with the wall clock.
        ttl=None,
        schema=[*(Field(name=key, dtype=String) for key in view.keys), *columns],
        source=source,
        online=True,
    )


def connection_string(url: str) -> str:
    """Feast's form of a Redis URL: ``host:port,db=0,password=...``.

    Raises:
        ConfigurationError: the URL is not ``redis://`` or ``rediss://``, or has an option that Feast can't take.
    """
    parts = urlsplit(url)
    try:
        port = parts.port or 6379
    except ValueError:  # the message would show what stands there: a part of a password that wasn't quoted
        raise ConfigurationError("the port of the Redis URL isn't a number.", where="FASTTRACK_REDIS") from None
    if parts.scheme not in ("redis", "rediss") or not parts.hostname:
        raise ConfigurationError(
            f"not a Redis URL: {parts.scheme}://{parts.hostname or ''}.", where="FASTTRACK_REDIS",
            fix="Write redis://host:port/0.",
        )  # fmt: skip
    options = dict(parse_qsl(parts.query))
    if parts.path.strip("/"):
        options.setdefault("db", parts.path.strip("/"))  # redis-py, too, lets the option win
    if not options.get("db", "0").isdecimal():
        raise ConfigurationError("the database of the Redis URL isn't a number.", where="FASTTRACK_REDIS")
    if parts.username:
        options["username"] = unquote(parts.username)
    if parts.password:
        options["password"] = unquote(parts.password)
    # Feast reads each option as JSON if it can; unquoted, the password 1e3 would become 1000.0.
    options |= {name: json.dumps(options[name]) for name in ("username", "password") if name in options}
    if parts.scheme == "rediss":
        options["ssl"] = "true"
    if any("," in value for value in options.values()):
        raise ConfigurationError("the Redis URL has a comma, which Feast can't take.", where="FASTTRACK_REDIS")
    return ",".join([f"{parts.hostname}:{port}", *(f"{key}={value}" for key, value in options.items())])


@contextmanager
def redis_errors(settings: Settings) -> Iterator[None]:
    """Turn Redis failures into ours.

    Raises:
        UnavailableError: Redis doesn't answer, or refuses.
    """
    from redis.exceptions import RedisError

    try:
        yield
    except RedisError as error:
        parts = urlsplit(settings.redis)
        raise UnavailableError(
            f"the online store doesn't answer: {error}",
            where=parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl(),
            fix="Start it (`fasttrack up`), or correct FASTTRACK_REDIS.",
        ) from error
