"""Which schemas may follow which."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fasttrack.local.compatibility import canonical, problems


def document(closed: bool = True, required: tuple[str, ...] = ("id",), **properties: Any) -> str:
    found: dict[str, Any] = {"type": "object", "properties": {"id": {"type": "string"}, **properties}}
    return json.dumps(found | {"required": list(required), "additionalProperties": not closed})


def record(*fields: dict[str, Any]) -> str:
    return json.dumps({"type": "record", "name": "r", "fields": list(fields)})


NUMBER = {"type": "number", "minimum": 0, "maximum": 10}
WORD = {"type": "string", "enum": ["a", "b"], "maxLength": 5}


@pytest.mark.parametrize(
    ("new", "old"),
    [
        (document(x={"type": ["number", "null"]}), document()),
        (document(x={"type": "number"}), document(x={"type": "integer"})),
        (document(x=NUMBER | {"maximum": 11, "minimum": -1}), document(x=NUMBER)),
        (document(x={"type": "string", "enum": ["a", "b", "c"]}), document(x=WORD)),
        (document(required=()), document()),
        (document(closed=False), document()),
        (document(x={"type": "array", "items": {"type": "number"}}), document(x={"type": "array", "items": NUMBER})),
    ],
)
def test_json_schemas_that_accept_more_may_follow(new: str, old: str) -> None:
    assert problems("BACKWARD", "JSON", new, [old]) == []
    assert problems("FULL", "JSON", new, [old])


@pytest.mark.parametrize(
    ("new", "old", "why"),
    [
        (document(required=("id", "x"), x=NUMBER), document(x=NUMBER), "/x: it is required now"),
        (document(x={"type": "string"}), document(x=NUMBER), "/x: type number is no longer allowed"),
        (document(x={"type": "string"}), document(x={"type": ["string", "null"]}), "type null"),
        (document(), document(x=NUMBER), "/x: the property is no longer allowed"),
        (document(x=NUMBER | {"maximum": 9}), document(x=NUMBER), "/x: maximum is tighter"),
        (document(x=NUMBER), document(x={"type": "number"}), "/x: minimum is tighter"),
        (document(x=WORD | {"enum": ["a"]}), document(x=WORD), "enum"),
        (document(x={"type": "string", "pattern": "^a"}), document(x={"type": "string"}), "/x: pattern changed"),
        (document(closed=False, x=NUMBER), document(closed=False), "allowed any"),
        (document(), document(closed=False), "additionalProperties are no longer allowed"),
    ],
)
def test_json_schemas_that_accept_less_may_not(new: str, old: str, why: str) -> None:
    (found,) = problems("BACKWARD", "JSON", new, [old])[:1]
    assert why in " ".join([found, *problems("BACKWARD", "JSON", new, [old])])
    assert problems("NONE", "JSON", new, [old]) == []


def test_only_transitive_levels_look_past_the_last_version() -> None:
    versions = [document(x=NUMBER), document(closed=False)]
    new = document(closed=False, required=())
    assert problems("BACKWARD", "JSON", new, versions) == []
    assert problems("BACKWARD", "JSON", document(closed=False, x={"type": "string"}), versions[:1])
    assert problems("BACKWARD_TRANSITIVE", "JSON", document(closed=False), [document(required=()), document()])


@pytest.mark.parametrize(
    ("new", "old", "good"),
    [
        (record({"name": "n", "type": "double"}), record({"name": "n", "type": "int"}), True),
        (record({"name": "n", "type": "int"}), record({"name": "n", "type": "double"}), False),
        (record({"name": "n", "type": ["null", "int"]}), record({"name": "n", "type": "int"}), True),
        (record({"name": "n", "type": "int"}), record({"name": "n", "type": ["null", "int"]}), False),
        (record(), record({"name": "n", "type": "int"}), True),
        (record({"name": "n", "type": "int"}), record(), False),
        (record({"name": "n", "type": "int", "default": 0}), record(), True),
        (record({"name": "m", "aliases": ["n"], "type": "int"}), record({"name": "n", "type": "int"}), True),
        ('{"type":"enum","name":"e","symbols":["a"]}', '{"type":"enum","name":"e","symbols":["a","b"]}', False),
        ('{"type":"array","items":"long"}', '{"type":"array","items":"int"}', True),
        ('{"type":"map","values":"int"}', '{"type":"map","values":"string"}', False),
        ('{"type":"fixed","name":"f","size":4}', '{"type":"fixed","name":"f","size":5}', False),
    ],
)
def test_avro_resolution(new: str, old: str, good: bool) -> None:
    assert (problems("BACKWARD", "AVRO", new, [old]) == []) is good
    assert (problems("FORWARD", "AVRO", old, [new]) == []) is good


def test_recursive_avro_records_end() -> None:
    tree = '{"type":"record","name":"t","fields":[{"name":"next","type":["null","t"]}]}'
    assert problems("FULL_TRANSITIVE", "AVRO", tree, [tree]) == []


def test_equal_schemas_have_one_text() -> None:
    assert canonical("JSON", '{ "type" : "object" }') == canonical("JSON", '{"type":"object"}')
    assert canonical("AVRO", "string") == canonical("AVRO", '"string"')


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("JSON", "{"),
        ("JSON", '{"type": 3}'),
        ("AVRO", '{"type": "record"}'),
        ("AVRO", '{"type":"nothing"}'),
        ("XML", "{}"),
    ],
)
def test_what_is_no_schema_is_refused(kind: str, text: str) -> None:
    with pytest.raises(ValueError, match=r"schema|Schema|JSON"):
        canonical(kind, text)
