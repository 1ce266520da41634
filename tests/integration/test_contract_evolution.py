"""Contracts evolve by adding nullable fields: the schema registry holds JSON and Avro subjects to it, and says why."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from confluent_kafka.schema_registry import SchemaRegistryClient

from fasttrack.errors import ConflictError
from fasttrack.ingest.schemas import known, register
from fasttrack.local.platform import Platform
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase, parse
from tests.unit import ingest_usecase

GIFT = "      gift: {type: boolean}\n"
COUPON = "      coupon: {type: string, nullable: true, max_length: 8}\n"
AMOUNT = "amount: {type: number, minimum: -10.5, maximum: 1000}"
SERIAL = "serial: {type: integer, nullable: true}"
CITY = "city: {type: string, nullable: true, enum: [Paris, Łódź]}"


def shop(name: str, encoding: str, **changes: str) -> UseCase:
    """The shop with all streams in an encoding; `changes` are ``old=new`` by the names of the constants above."""
    text = ingest_usecase.YAML.format(name=name, partitions=2, source="tests.unit.ingest_usecase:events")
    text = text.replace("    event_id: event_id\n", f"    event_id: event_id\n    encoding: {encoding}\n")
    for old, new in changes.items():
        assert globals()[old] in text
        text = text.replace(globals()[old], new)
    return parse(text)


@pytest.fixture
def settings(platform: Platform) -> Settings:
    return platform.settings()


@pytest.fixture
def name() -> str:
    return f"shop-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def client(settings: Settings) -> SchemaRegistryClient:
    return SchemaRegistryClient({"url": settings.schema_registry})


@pytest.fixture
def careless(client: SchemaRegistryClient) -> Iterator[SchemaRegistryClient]:
    """A registry whose default is to check nothing."""
    client.set_compatibility(level="NONE")
    yield client
    client.set_compatibility(level="BACKWARD")


@pytest.mark.parametrize("encoding", ["json", "avro"])
def test_nullable_fields_are_added_version_by_version(settings: Settings, name: str, encoding: str) -> None:
    weight = "      weight: {type: number, nullable: true}\n"
    maybe = "      gift: {type: boolean, nullable: true}\n"
    versions = [
        shop(name, encoding),
        shop(name, encoding, GIFT=GIFT + COUPON),
        shop(name, encoding, GIFT=GIFT + COUPON + weight),
        # What was required may be null from now on.
        shop(name, encoding, GIFT=maybe + COUPON + weight),
    ]
    numbers = [register(settings, version, "placed") for version in versions]
    assert len(set(numbers)) == 4
    assert list(known(settings, versions[-1], "placed")) == numbers
    # A producer that is behind goes on.
    assert [register(settings, version, "placed") for version in versions] == numbers


@pytest.mark.parametrize("encoding", ["json", "avro"])
@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"GIFT": ""}, "gift"),
        ({"GIFT": "      gift: {type: string}\n"}, "gift"),
        ({"GIFT": GIFT + "      coupon: {type: string}\n"}, "coupon"),
        ({"CITY": "city: {type: string, enum: [Paris, Łódź]}"}, "city"),
        ({"SERIAL": "serial: {type: timestamp, nullable: true}"}, "serial"),
        ({"AMOUNT": "amount: {type: integer}"}, "amount"),
    ],
    ids=["removed", "other type", "new and required", "no longer null", "number to moment", "number to integer"],
)
def test_what_old_messages_break_is_refused_by_name_though_the_registry_checks_nothing_by_default(
    careless: SchemaRegistryClient, settings: Settings, name: str, encoding: str, changes: dict[str, str], field: str
) -> None:
    old, new = shop(name, encoding), shop(name, encoding, **changes)
    number = register(settings, old, "placed")
    assert careless.get_compatibility(f"{old.topic('placed')}-value") == "BACKWARD_TRANSITIVE"
    with pytest.raises(ConflictError) as caught:
        register(settings, new, "placed")
    assert field in caught.value.what
    assert "{" not in caught.value.what
    assert caught.value.fix == "A contract evolves by adding nullable fields; anything else needs a new topic."
    assert known(settings, new, "placed").keys() == {number}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"AMOUNT": "amount: {type: number, minimum: -10.5, maximum: 999}"}, "/amount: maximum is tighter"),
        ({"CITY": "city: {type: string, nullable: true, enum: [Paris]}"}, "/city: values of the enum"),
        ({"CITY": "city: {type: string, nullable: true, pattern: P.*}"}, "/city: pattern changed"),
    ],
)
def test_json_s_limits_are_loosened_only(settings: Settings, name: str, changes: dict[str, str], why: str) -> None:
    old, tighter = shop(name, "json"), shop(name, "json", **changes)
    looser = shop(name, "json", AMOUNT="amount: {type: number}", CITY="city: {type: string, nullable: true}")
    register(settings, old, "placed")
    with pytest.raises(ConflictError, match=why):
        register(settings, tighter, "placed")
    assert register(settings, looser, "placed") in known(settings, old, "placed")
    # To the version before, the first one's limits are tighter; it is there already.
    assert register(settings, old, "placed") in known(settings, old, "placed")


def test_every_version_before_counts(settings: Settings, name: str) -> None:
    """A version that fits the last one alone is refused."""
    wide = shop(name, "json", AMOUNT="amount: {type: number, maximum: 2000}")
    narrow = shop(name, "json", AMOUNT="amount: {type: number, maximum: 1500}")
    client = SchemaRegistryClient({"url": settings.schema_registry})
    subject = f"{wide.topic('placed')}-value"
    register(settings, wide, "placed")
    client.set_compatibility(subject, "NONE")
    # Somebody else registered it, past the check.
    text = next(iter(known(settings, wide, "placed").values())).replace("2000.0", "1000.0")
    client.register_schema(subject, type(client.get_latest_version(subject).schema)(text, "JSON"))
    with pytest.raises(ConflictError, match="/amount: maximum is tighter"):
        register(settings, narrow, "placed")


def test_a_level_that_is_stricter_is_left_alone(client: SchemaRegistryClient, settings: Settings, name: str) -> None:
    case = shop(name, "avro")
    subject = f"{case.topic('placed')}-value"
    register(settings, case, "placed")
    client.set_compatibility(subject, "FULL_TRANSITIVE")
    register(settings, shop(name, "avro", GIFT=GIFT + COUPON), "placed")
    assert client.get_compatibility(subject) == "FULL_TRANSITIVE"
