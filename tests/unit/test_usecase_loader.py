"""A use case is refused with file, line and a suggestion, or accepted whole."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import orjson
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fasttrack.errors import UseCaseError
from fasttrack.usecase import UseCase, dump, json_schema, load, parse
from fasttrack.usecase.durations import format_duration, parse_duration

REPOSITORY = Path(__file__).resolve().parents[2]
FLIGHTS = REPOSITORY / "examples/flights/usecase.yaml"
TEXT = FLIGHTS.read_text()


def line_of(text: str, fragment: str) -> int:
    return next(number for number, line in enumerate(text.splitlines(), 1) if fragment in line)


@pytest.mark.parametrize(
    ("good", "bad", "says"),
    [
        ("lead: 2h", "lead: 2x", "prediction.lead: '2x' is not a duration"),
        ("lead: 2h", "lead: 2", "prediction.lead: 2 is not a duration"),
        ("transform: hour", "transfrom: hour", "unknown key; did you mean 'transform'?"),
        ("trials: 6", "trails: 6", "tuning.trails: unknown key; did you mean 'trials'?"),
        ("trials: 6", "trials: '6'", "tuning.trials: Input should be a valid integer (got '6')"),
        ("trials: 6", "trials: 0", "tuning.trials: Input should be greater than 0"),
        (
            "entity: carrier, field: departure_delay",
            "entity: carier, field: departure_delay",
            "did you mean 'carrier'?",
        ),
        ("field: distance}", "field: distanc}", "field 'distanc' is not defined; did you mean 'distance'?"),
        (
            "{type: integer, minimum: 1, maximum: 6000",
            "{type: integr, minimum: 1, maximum: 6000",
            "distance.type: Input should be",
        ),
        ("{kind: field, field: seats}", "{kind: feld, field: seats}", "features.seats"),
        (
            "  stream: landed\n  field",
            "  stream: landded\n  field",
            "stream 'landded' is not defined; did you mean 'landed'?",
        ),
        ("slices: [carrier, origin]", "slices: [carrier, orign]", "did you mean 'origin'?"),
        ("time_field: scheduled_departure", "time_field: distance", "field 'distance' is not a timestamp"),
        (
            "  scheduled:\n    description",
            "  scheduled:\n    topic: flights.deadletters\n    description",
            "its topic 'flights.deadletters' is one that FastTrack keeps for itself",
        ),
        ("{metric: auc, at_least: 0.58}", "{metric: auc}", "give exactly one of at_least and at_most"),
        ("api_version: fasttrack.ai/v1", "api_version: fasttrack.ai/v9", "api_version"),
        ("owner:", "ownr:", "unknown key; did you mean 'owner'?"),
    ],
)
def test_a_mistake_is_named_with_its_line(good: str, bad: str, says: str) -> None:
    text = TEXT.replace(good, bad, 1)
    assert text != TEXT
    with pytest.raises(UseCaseError) as refusal:
        parse(text, "flights.yaml")
    assert says in refusal.value.what
    # The line of the mistake, or of the mapping that it stands in.
    named = int(str(refusal.value.where).removeprefix("flights.yaml:"))
    assert 0 <= line_of(text, bad.splitlines()[0]) - named <= 1


@pytest.mark.parametrize("path", ["_lsn", "_committed_at", "_change"])
def test_what_all_changes_of_a_transaction_share_is_refused_as_an_event_s_id(path: str) -> None:
    """But one of a transaction's rows would be a duplicate."""
    source = f"""
  changes:
    kind: postgres_replication
    stream: weather
    connection_env: SHOP
    table: weather
    keys: [id]
    fields: {{event_id: {path}}}
"""
    with pytest.raises(UseCaseError, match=f"{path} is not of one change alone.*take _change_id") as refusal:
        parse(f"{TEXT}\nsources:{source}", "flights.yaml")
    assert refusal.value.where == f"flights.yaml:{line_of(f'{TEXT}{chr(10)}sources:{source}', '{event_id: _')}"
    assert parse(f"{TEXT}\nsources:{source.replace(path, '_change_id')}").sources


def test_a_missing_key_is_named() -> None:
    document = yaml.safe_load(TEXT)
    for key in ("streams", "prediction", "label", "gate", "roles"):
        less = {k: v for k, v in document.items() if k != key}
        with pytest.raises(UseCaseError, match=f"{key}: this key is missing"):
            parse(yaml.safe_dump(less, sort_keys=False))


@pytest.mark.parametrize("text", ["", "[1, 2]", "just words", "a: [1", "a: \tb: c", "name: x\nname: y", "\x00"])
def test_what_is_no_use_case_is_refused(text: str) -> None:
    with pytest.raises(UseCaseError):
        parse(text)


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UseCaseError, match="No such file"):
        load(tmp_path / "absent.yaml")
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UseCaseError, match="can't be read"):
        load(binary)


@given(st.text(max_size=200))
def test_no_text_gives_anything_but_a_use_case_error(text: str) -> None:
    with pytest.raises(UseCaseError):
        parse(text)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_any_renamed_key_is_refused(data: st.DataObject) -> None:
    document = yaml.safe_load(TEXT)
    mappings = [
        document[part] for part in ("prediction", "label", "split", "tuning", "training", "gate", "quality", "serving")
    ]
    mapping = data.draw(st.sampled_from(mappings))
    key = data.draw(st.sampled_from(sorted(mapping)))
    mapping[key + "_"] = mapping.pop(key)
    with pytest.raises(UseCaseError):
        parse(yaml.safe_dump(document))


def test_a_use_case_survives_its_own_dump() -> None:
    usecase = load(FLIGHTS)
    assert dump(UseCase.model_validate(dump(usecase))) == dump(usecase)


def test_columns_are_unique_and_ordered_as_defined() -> None:
    usecase = load(FLIGHTS)
    names = [column.name for column in usecase.columns()]
    assert len(names) == len(set(names))
    definitions = list(dict.fromkeys(column.definition for column in usecase.columns()))
    assert definitions == list(usecase.features)


def test_two_definitions_of_one_column_are_refused() -> None:
    text = TEXT.replace("  origin: {kind: field, field: origin}", "  weather_pressure: {kind: field, field: origin}", 1)
    with pytest.raises(UseCaseError, match="is also made by"):
        parse(text)


def test_the_published_schema_is_current_and_accepts_the_example() -> None:
    published = orjson.loads((REPOSITORY / "docs/reference/usecase.schema.json").read_bytes())
    assert published == json_schema(), "run `fasttrack usecase schema > docs/reference/usecase.schema.json`"
    jsonschema.Draft202012Validator.check_schema(published)
    # YAML timestamps are objects in Python and strings in JSON.
    document = orjson.loads(orjson.dumps(yaml.safe_load(TEXT)))
    jsonschema.validate(document, published)


@example(8065, "ms")
@given(st.integers(0, 10**6), st.sampled_from(["ms", "s", "m", "h", "d", "w"]))
def test_a_duration_prints_as_itself(number: int, unit: str) -> None:
    duration = parse_duration(f"{number}{unit}")
    assert parse_duration(format_duration(duration)) == duration
