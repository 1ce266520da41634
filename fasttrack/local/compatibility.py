"""Whether data written with one schema can be read with another: Avro's rules, and Confluent's for JSON Schema."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import fastavro
import jsonschema
from fastavro.schema import SchemaParseException

LEVELS = ("NONE", "BACKWARD", "BACKWARD_TRANSITIVE", "FORWARD", "FORWARD_TRANSITIVE", "FULL", "FULL_TRANSITIVE")
TYPES = ("AVRO", "JSON")

_PROMOTIONS = {
    "int": {"long", "float", "double"},
    "long": {"float", "double"},
    "float": {"double"},
    "string": {"bytes"},
    "bytes": {"string"},
}
_UPPER_BOUNDS = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_LOWER_BOUNDS = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_MUST_STAY = ("const", "pattern", "format", "multipleOf", "$ref", "allOf", "anyOf", "oneOf", "not")


def canonical(kind: str, text: str) -> str:
    """The schema's text in the one form that equal schemas share.

    Raises:
        ValueError: the text is no schema of this kind ("AVRO" or "JSON").
    """
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        if kind != "AVRO" or not text.isidentifier():
            raise ValueError(f"not JSON: {error}") from error
        document = text  # a primitive Avro type may be written without quotes
    if kind == "AVRO":
        try:
            fastavro.parse_schema(document)
        except (SchemaParseException, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no Avro schema: {error}") from error
    elif kind == "JSON":
        try:
            jsonschema.validators.validator_for(document).check_schema(document)
        except (jsonschema.SchemaError, TypeError, AttributeError) as error:
            raise ValueError(f"no JSON Schema: {error}") from error
    else:
        raise ValueError(f"schema type {kind!r} is not one of {', '.join(TYPES)}")
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False)


def problems(level: str, kind: str, new: str, old: list[str]) -> list[str]:
    """Why `new` may not follow the `old` schemas (oldest first); empty if it may.

    Args:
        level: one of `LEVELS`.
        kind: "AVRO" or "JSON", of all of them.
        new: canonical text of the schema that is to be registered.
        old: canonical texts of the versions before.
    """
    if level == "NONE" or not old:
        return []
    reads = _avro_reads if kind == "AVRO" else _json_reads
    compared = old if level.endswith("_TRANSITIVE") else old[-1:]
    found: list[str] = []
    for text in reversed(compared):
        if level.startswith(("BACKWARD", "FULL")):
            found += _compare(reads, new, text, "new", "old")
        if level.startswith(("FORWARD", "FULL")):
            found += _compare(reads, text, new, "old", "new")
    return found


def _compare(reads: Callable[[Any, Any], list[str]], reader: str, writer: str, who: str, whose: str) -> list[str]:
    return [
        f"the {who} schema can't read the {whose} one's data: {why}"
        for why in reads(json.loads(reader), json.loads(writer))
    ]


# ---- Avro: "Schema Resolution" of the specification


def _avro_reads(reader: Any, writer: Any) -> list[str]:
    return _Avro(reader, writer).reads(reader, writer, "")


class _Avro:
    def __init__(self, reader: Any, writer: Any) -> None:
        self._names: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
        for names, schema in zip(self._names, (reader, writer), strict=True):
            _collect(schema, names)
        self._open: set[tuple[str, str]] = set()

    def reads(self, reader: Any, writer: Any, path: str) -> list[str]:
        reader, writer = self._resolve(reader, 0), self._resolve(writer, 1)
        if isinstance(writer, list):
            return [why for branch in writer for why in self.reads(reader, branch, path)]
        if isinstance(reader, list):
            if any(not self.reads(branch, writer, path) for branch in reader):
                return []
            return [f"{path or '/'}: no branch of the union takes {_type(writer)}"]
        kind, other = _type(reader), _type(writer)
        if kind != other:
            return [] if kind in _PROMOTIONS.get(other, ()) else [f"{path or '/'}: {other} became {kind}"]
        check = {"record": self._record, "enum": _enum, "fixed": _fixed}.get(kind)
        if check is not None:
            return check(reader, writer, path)
        part = {"array": "items", "map": "values"}.get(kind)
        return self.reads(reader[part], writer[part], f"{path}/{part}") if part else []

    def _record(self, reader: Any, writer: Any, path: str) -> list[str]:
        pair = (reader["name"], writer["name"])
        if pair in self._open:
            return []
        self._open.add(pair)
        written = {field["name"]: field for field in writer["fields"]}
        found: list[str] = []
        for field in reader["fields"]:
            name = next((n for n in (field["name"], *field.get("aliases", ())) if n in written), None)
            if name is not None:
                found += self.reads(field["type"], written[name]["type"], f"{path}/{field['name']}")
            elif "default" not in field:
                found.append(f"{path}/{field['name']}: the field is new and has no default")
        return found

    def _resolve(self, schema: Any, side: int) -> Any:
        return self._names[side].get(schema, schema) if isinstance(schema, str) else schema


def _type(schema: Any) -> str:
    found = schema["type"] if isinstance(schema, dict) else schema
    return found if isinstance(found, str) else _type(found)


def _collect(schema: Any, names: dict[str, Any], namespace: str = "") -> None:
    if isinstance(schema, list):
        for branch in schema:
            _collect(branch, names, namespace)
    elif isinstance(schema, dict):
        if "name" in schema and schema.get("type") in ("record", "enum", "fixed"):
            namespace = schema.get("namespace", namespace)
            names[schema["name"]] = names[f"{namespace}.{schema['name']}"] = schema
        for field in schema.get("fields", ()):
            _collect(field["type"], names, namespace)
        for part in ("items", "values"):
            _collect(schema.get(part), names, namespace)


def _enum(reader: Any, writer: Any, path: str) -> list[str]:
    gone = sorted(set(writer["symbols"]) - set(reader["symbols"]))
    return [f"{path or '/'}: symbols {', '.join(gone)} are gone"] if gone and "default" not in reader else []


def _fixed(reader: Any, writer: Any, path: str) -> list[str]:
    return [] if reader["size"] == writer["size"] else [f"{path or '/'}: the size changed"]


# ---- JSON Schema: the rules of Confluent's registry for the keywords that contracts use


def _json_reads(reader: Any, writer: Any, path: str = "") -> list[str]:
    if reader is True or reader == {} or writer is False:
        return []
    if not isinstance(reader, dict) or not isinstance(writer, dict):
        return [] if reader == writer else [f"{path or '/'}: what is allowed was narrowed"]
    found = [
        f"{path or '/'}: {word} changed" for word in _MUST_STAY if word in reader and reader[word] != writer.get(word)
    ]
    found += _types(reader, writer, path) + _bounds(reader, writer, path) + _properties(reader, writer, path)
    if "items" in reader:
        found += _json_reads(reader["items"], writer.get("items", True), f"{path}/items")
    return found


def _types(reader: dict[str, Any], writer: dict[str, Any], path: str) -> list[str]:
    if "type" in reader:
        before, now = _listed(writer.get("type")), _listed(reader["type"])
        lost = [kind for kind in before if kind not in now and not (kind == "integer" and "number" in now)]
        if lost or not before:
            return [f"{path or '/'}: type {', '.join(lost) or 'any'} is no longer allowed"]
    if "enum" in reader:
        values = writer.get("enum")
        if values is None or any(value not in reader["enum"] for value in values):
            return [f"{path or '/'}: values of the enum are no longer allowed"]
    return []


def _listed(kind: Any) -> list[str]:
    return kind if isinstance(kind, list) else [kind] if kind else []


def _bounds(reader: dict[str, Any], writer: dict[str, Any], path: str) -> list[str]:
    tighter = [w for w in _UPPER_BOUNDS if w in reader and (w not in writer or reader[w] < writer[w])]
    tighter += [w for w in _LOWER_BOUNDS if w in reader and (w not in writer or reader[w] > writer[w])]
    return [f"{path or '/'}: {word} is tighter" for word in tighter]


def _properties(reader: dict[str, Any], writer: dict[str, Any], path: str) -> list[str]:
    now, before = reader.get("properties", {}), writer.get("properties", {})
    required, was = set(reader.get("required", ())), set(writer.get("required", ()))
    was_open, is_open = writer.get("additionalProperties", True), reader.get("additionalProperties", True)
    found = [
        f"{path}/{name}: it is required now" for name in sorted(required - was) if "default" not in now.get(name, {})
    ]
    for name, schema in now.items():
        if name in before:
            found += _json_reads(schema, before[name], f"{path}/{name}")
        elif was_open is not False and schema not in (True, {}):
            # Data could already hold anything under this name.
            found.append(f"{path}/{name}: a property was added to a schema that allowed any (additionalProperties)")
    if is_open is False:
        found += [f"{path}/{name}: the property is no longer allowed" for name in before if name not in now]
        if was_open is not False:
            found.append(f"{path or '/'}: additionalProperties are no longer allowed")
    return found
