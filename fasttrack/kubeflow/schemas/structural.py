"""Check an object against the structural schema of its CRD, as the API server does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

from fasttrack.kubeflow.schemas import resolve
from fasttrack.kubeflow.schemas.cel import compile_rule
from fasttrack.kubeflow.schemas.cel_values import CelError

Schema = dict[str, Any]


class Problem(NamedTuple):
    """Something wrong: where in the object, and why."""

    path: str
    reason: str


_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}


# The API server knows these fields of every object by itself.
_COMMON: Schema = {
    "apiVersion": {"type": "string"},
    "kind": {"type": "string"},
    "metadata": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
}


def object_problems(value: dict[str, Any], schema: Schema) -> Iterator[Problem]:
    """Everything in a whole object that its kind's schema doesn't allow."""
    root = resolve(schema)
    return problems(value, {**root, "properties": {**root.get("properties", {}), **_COMMON}})


def problems(value: Any, schema: Schema, path: str = "") -> Iterator[Problem]:
    """Everything in `value` that its schema doesn't allow, unknown fields included."""
    schema = resolve(schema)
    if value is None:
        if not schema.get("nullable"):
            yield Problem(path, "null is not allowed.")
        return
    if wrong := _wrong_type(value, schema):
        yield Problem(path, wrong)
        return
    found = list(_of_value(value, schema, path))
    yield from found
    # The API server runs the rules only over what is otherwise well-formed.
    if not found:
        yield from _of_rules(value, schema, path)


def defaulted(value: Any, schema: Schema) -> Any:
    """A copy of `value` with the schema's defaults filled in: rules may rely on them."""
    schema = resolve(schema)
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        made = {name: defaulted(item, _of_field(name, schema)) for name, item in value.items()}
        for name, below in properties.items():
            if name not in made and "default" in (known := resolve(below)):
                made[name] = defaulted(known["default"], known)
        return made
    if isinstance(value, list):
        return [defaulted(item, schema.get("items", {})) for item in value]
    return value


def _of_field(name: str, schema: Schema) -> Schema:
    known: Schema | None = schema.get("properties", {}).get(name)
    if known is not None:
        return known
    extra = schema.get("additionalProperties")
    return extra if isinstance(extra, dict) else {"x-kubernetes-preserve-unknown-fields": True}


def _wrong_type(value: Any, schema: Schema) -> str:
    if schema.get("x-kubernetes-int-or-string"):
        right = isinstance(value, int | str) and not isinstance(value, bool)
        return "" if right else f"{value!r} is neither a whole number nor a text."
    kind = schema.get("type")
    if kind is None:
        return ""
    if isinstance(value, bool) is (kind == "boolean") and isinstance(value, _TYPES[kind]):
        return ""
    return f"{_short(value)} is not of type {kind}."


def _of_value(value: Any, schema: Schema, path: str) -> Iterator[Problem]:
    if "enum" in schema and value not in schema["enum"]:
        yield Problem(path, f"{value!r} is not one of {', '.join(map(repr, schema['enum']))}.")
    match value:
        case dict():
            yield from _of_object(value, schema, path)
        case list():
            yield from _of_list(value, schema, path)
        case str():
            yield from _of_text(value, schema, path)
        case int() | float() if not isinstance(value, bool):
            yield from _of_number(value, schema, path)


def _of_object(value: dict[str, Any], schema: Schema, path: str) -> Iterator[Problem]:
    # The API server fills in defaults before it asks for what is required.
    properties = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value and "default" not in resolve(properties.get(name, {})):
            yield Problem(path, f"{name} is required.")
    open_ended = schema.get("x-kubernetes-preserve-unknown-fields") or not schema.get("type")
    for name, item in value.items():
        at = f"{path}.{name}" if path else str(name)
        if name in properties:
            yield from problems(item, properties[name], at)
        elif "additionalProperties" in schema:
            if isinstance(extra := schema["additionalProperties"], dict):
                yield from problems(item, extra, at)
        elif not open_ended:
            yield Problem(at, f"unknown field; there is: {', '.join(sorted(properties)) or 'nothing'}.")
    yield from _bounds(len(value), schema, path, "Properties", "fields")


def _of_list(value: list[Any], schema: Schema, path: str) -> Iterator[Problem]:
    yield from _bounds(len(value), schema, path, "Items", "items")
    for position, item in enumerate(value):
        yield from problems(item, schema.get("items", {}), f"{path}[{position}]")
    if schema.get("x-kubernetes-list-type") == "map":
        yield from _twins(value, schema, path)
    if schema.get("x-kubernetes-list-type") == "set" and len({repr(item) for item in value}) < len(value):
        yield Problem(path, "an item is listed twice.")


def _twins(value: list[Any], schema: Schema, path: str) -> Iterator[Problem]:
    keys = schema.get("x-kubernetes-list-map-keys", ())
    seen: set[str] = set()
    for position, item in enumerate(value):
        if not isinstance(item, dict):
            continue
        key = ", ".join(repr(item.get(name)) for name in keys)
        if key in seen:
            yield Problem(f"{path}[{position}]", f"another item has the same {' and '.join(keys)}: {key}.")
        seen.add(key)


def _of_text(value: str, schema: Schema, path: str) -> Iterator[Problem]:
    yield from _bounds(len(value), schema, path, "Length", "characters")
    if (pattern := schema.get("pattern")) and not _pattern(pattern).search(value):
        yield Problem(path, f"{value!r} does not match {pattern}.")


def _of_number(value: float, schema: Schema, path: str) -> Iterator[Problem]:
    if "minimum" in schema and value < schema["minimum"]:
        yield Problem(path, f"{value} is below {schema['minimum']}.")
    if "maximum" in schema and value > schema["maximum"]:
        yield Problem(path, f"{value} is above {schema['maximum']}.")


def _bounds(size: int, schema: Schema, path: str, word: str, what: str) -> Iterator[Problem]:
    least, most = schema.get(f"min{word}"), schema.get(f"max{word}")
    if least is not None and size < least:
        yield Problem(path, f"has {size} {what}; {least} are the least.")
    if most is not None and size > most:
        yield Problem(path, f"has {size} {what}; {most} are the most.")


def _of_rules(value: Any, schema: Schema, path: str) -> Iterator[Problem]:
    rules = [rule for rule in schema.get("x-kubernetes-validations", ()) if "oldSelf" not in rule["rule"]]
    if not rules:
        return
    scope = {"self": defaulted(value, schema)}
    for rule in rules:
        try:
            kept = bool(compile_rule(rule["rule"])(scope))
        except CelError as error:
            yield Problem(path, f"{rule.get('message') or rule['rule']} ({error}).")
            continue
        if not kept:
            yield Problem(path, f"{rule.get('message') or rule['rule']}.")


@lru_cache(maxsize=512)
def _pattern(text: str) -> re.Pattern[str]:
    # Go's `$` is the end of the text; Python's also stands before a last line break.
    return re.compile(re.sub(r"(?<!\\)\$$", r"\\Z", text))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
