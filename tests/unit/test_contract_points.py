"""One contract, wherever it is enforced without Spark: no point says otherwise than the event's maker knows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fasttrack.ingest.contracts import json_schema, partial_schema
from fasttrack.ingest.decide import Recorded, decide
from fasttrack.ingest.dedup import SeenIds
from tests.unit.contract_cases import ABSENT, CHANGES, GOOD, SINGLE, STREAM, Example, example, examples
from tests.unit.contract_points import (
    AVRO,
    GatewayPoint,
    avro_columns,
    avro_rows,
    gateway_point,
    in_columns,
    json_columns,
    json_rows,
    json_schema_verdicts,
    registered_schema,
)

#: What a point can't see. All of it is in sight of the drain, which is behind every one of them but the gateway.
BLIND = {
    "JSON rows": set(),
    "JSON columns": set(),
    # A record has each field once.
    "Avro rows": {"twice"},
    "Avro columns": {"twice"},
    # It is given a parsed value: not the message key, not a field's first value, not how a number was written. Of
    # times it knows the form.
    "JSON Schema": {"key", "twice", "inexact", "moment"},
    # A request says what is known of an event that nobody sent: it has no key, and what it lacks is unknown.
    "gateway": {"key", "missing"},
    # As both.
    "JSON Schema of requests": {"key", "twice", "inexact", "moment", "missing"},
}  # type: dict[str, set[str]]


@pytest.fixture(scope="module")
def point(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayPoint]:
    with gateway_point(tmp_path_factory.mktemp("gateway")) as found:
        yield found


def verdicts(some: list[Example]) -> dict[str, list[bool]]:
    count = len(some)
    return {
        "JSON rows": json_rows(some),
        "JSON columns": in_columns(json_columns(some), count),
        "Avro rows": avro_rows(some),
        "Avro columns": in_columns(avro_columns(some), count),
        "JSON Schema": registered_schema(some),
        "JSON Schema of requests": json_schema_verdicts(partial_schema(STREAM), some),
    }


def assert_agreed(point: GatewayPoint, some: list[Example]) -> None:
    for name, found in verdicts(some).items():
        wrong = [one for one, said in zip(some, found, strict=True) if said != one.good_for(BLIND[name])]
        assert not wrong, f"{name} is wrong on {len(wrong)}, the first: {wrong[0]}"
    accepted = [one for one in some if by_gateway(point, one)]
    # What is passed on is what was asked, less what says nothing.
    given = [{n: v for n, v in orjson.loads(one.text).items() if v is not None} for one in accepted]
    assert point.passed_on() == given


def by_gateway(point: GatewayPoint, one: Example) -> bool:
    """The gateway's verdict, after it was found to be right, and to name the field where there is one to name."""
    status, answer = point.ask(one)
    # No request may hold NUL: the audit's database can't store it. The contract has nothing against it.
    nul = any(isinstance(value, str) and "\0" in value for value in one.document.values())
    good = one.good_for(BLIND["gateway"]) and not nul
    assert status == (200 if good else 400), (one, answer)
    if not good:
        seen = {fault.kind: fault.field for fault in one.faults if fault.kind not in BLIND["gateway"]}
        places = {f"body.event.{fault.field}" for fault in one.faults if fault.kind in ("value", "moment", "inexact")}
        assert answer["title"] == "Invalid request"
        whole = nul or seen.keys() & {"not JSON", "twice", "unknown"}
        assert answer["where"] in places or (whole and answer["where"].startswith("body"))
    return good


def test_every_kind_of_good_and_bad_value_has_its_verdict_everywhere(point: GatewayPoint) -> None:
    assert_agreed(point, SINGLE)
    kinds = Counter(fault.kind for one in SINGLE for fault in one.faults)
    assert kinds.keys() == {"value", "missing", "unknown", "moment", "inexact", "not JSON", "key", "twice"}
    assert kinds["value"] > 100
    assert sum(not one.faults for one in SINGLE) > 60


@settings(max_examples=20)
@given(st.integers(0, 2**32))
def test_generated_events_have_the_same_verdict_everywhere(point: GatewayPoint, seed: int) -> None:
    assert_agreed(point, examples(seed, 100))


@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(st.integers(1, 9), st.sampled_from([c for c in CHANGES if c[0] != "event_id"]), st.booleans()),
        min_size=1,
        max_size=60,
    )
)
def test_an_id_counts_once_however_it_is_written_and_a_bad_event_uses_none_up(drawn: list[Any]) -> None:
    """Uniqueness is for the drain alone: only it has seen the events before."""
    made = [example([change] if changed else [], None, number) for number, change, changed in drawn]
    known: set[str] = set()
    first = [not one.faults and (i := one.document["event_id"]) not in known and not known.add(i) for one in made]  # type: ignore[func-returns-value]
    for stream, checked in ((STREAM, json_columns(made)), (AVRO, avro_columns(made))):
        offsets = np.arange(len(made), dtype=np.int64) + 7
        found = decide(stream, offsets, checked, SeenIds(timedelta(days=3_660_000)), Recorded())
        assert checked.index[found.landed].tolist() == [at for at, new in enumerate(first) if new]
        good = [at for at, one in enumerate(made) if not one.faults]
        assert [offset - 7 for offset, _ in found.duplicates] == [at for at in good if not first[at]]
        assert [at for at, _ in found.dead] == [at for at, one in enumerate(made) if one.faults]


def test_the_open_api_document_has_the_contract_of_the_events(point: GatewayPoint) -> None:
    document = point.running.ask("GET", "/openapi.json").json()
    schema = document["components"]["schemas"]["shop_event"]
    for route in ("predict", "explain"):
        post = document["paths"][f"/v1/usecases/{{name}}/{route}"]["post"]
        event = post["requestBody"]["content"]["application/json"]["schema"]["properties"]["event"]
        assert event["anyOf"] == [{"$ref": "#/components/schemas/shop_event"}, {"type": "null"}]
    found = json_schema_verdicts(schema, SINGLE)
    assert found == [one.good_for(BLIND["JSON Schema of requests"]) for one in SINGLE]
    whole = json_schema(STREAM)
    assert schema["properties"].keys() == whole["properties"].keys()
    assert "required" not in schema and not schema["additionalProperties"]
    token = point.running.issuer.token("user")
    assert point.running.ask("GET", "/v1/usecases/shop", token=token).json()["event"] == schema


def test_one_known_field_is_enough_for_a_prediction(point: GatewayPoint) -> None:
    for name, values in GOOD.items():
        told = next(value for value in values if value is not None and value is not ABSENT)
        assert point.ask(Example({name: told}))[0] == 200
    status, answer = point.ask(Example(dict.fromkeys(GOOD)))
    assert (status, answer["where"]) == (400, "body.event")
    assert point.passed_on() != []
