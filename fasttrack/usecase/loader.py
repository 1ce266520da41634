"""Read a use-case file; every refusal names file, line and what was probably meant."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from fasttrack.errors import UseCaseError
from fasttrack.usecase.spec import ReferenceProblem, UseCase, suggestion

Path_ = tuple[str | int, ...]


def load(path: str | Path) -> UseCase:
    """Read and check a use case.

    Raises:
        UseCaseError: the file is missing, is not YAML, has an unknown key, a wrong type, or a reference
            to something undefined; `where` is ``file:line``.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UseCaseError(
            f"can't be read: {reason}.", where=str(file), fix="Give the path of a use-case YAML file."
        ) from error
    usecase = parse(text, str(file))
    usecase._base = str(file.absolute().parent)
    return usecase


def parse(text: str, name: str = "<usecase>") -> UseCase:
    """Check a use case given as YAML text; `name` stands for the file in errors.

    Raises:
        UseCaseError: as for `load`.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        lines: dict[Path_, int] = {}
        _index(root, (), lines, name)
        document = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UseCaseError(f"not valid YAML: {error.problem}.", where=f"{name}:{line}") from error
    except yaml.YAMLError as error:
        raise UseCaseError(f"not valid YAML: {error}.", where=name) from error
    if not isinstance(document, dict):
        raise UseCaseError("is not a mapping of keys to values.", where=name, fix="See examples/flights/usecase.yaml.")
    try:
        return UseCase.model_validate(document)
    except ValidationError as error:
        raise _explain(error.errors(), document, lines, name) from error


def _index(node: yaml.Node | None, at: Path_, lines: dict[Path_, int], name: str) -> None:
    if node is None:
        return
    lines.setdefault(at, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            below = (*at, key.value)
            if below in lines:
                raise UseCaseError(f"key {key.value!r} is given twice.", where=f"{name}:{key.start_mark.line + 1}")
            lines[below] = key.start_mark.line + 1
            _index(value, below, lines, name)
    elif isinstance(node, yaml.SequenceNode):
        for position, value in enumerate(node.value):
            _index(value, (*at, position), lines, name)


def _explain(errors: list[ErrorDetails], document: dict[Any, Any], lines: dict[Path_, int], name: str) -> UseCaseError:
    first = errors[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, ReferenceProblem):
        at, message = cause.path, f"{'.'.join(map(str, cause.path))}: {cause}"
    else:
        at = _document_path(first["loc"], document)
        message = f"{'.'.join(map(str, at)) or 'the file'}: {_say(first, at)}"
    more = f" ({len(errors) - 1} more)" if len(errors) > 1 else ""
    return UseCaseError(message + more, where=f"{name}:{_line(at, lines)}")


def _document_path(loc: tuple[int | str, ...], document: Any) -> Path_:
    """Pydantic's location without the tags of discriminated unions, which the document hasn't."""
    at: list[str | int] = []
    node = document
    untagged = False
    for position, part in enumerate(loc):
        if not untagged and isinstance(node, dict) and part in (node.get("kind"), node.get("type")):
            untagged = True
            continue
        untagged = False
        inside = (isinstance(node, dict) and part in node) or (isinstance(node, list) and isinstance(part, int))
        if inside:
            node = node[part]
            at.append(part)
        elif position == len(loc) - 1 and isinstance(node, dict):
            at.append(part)
    return tuple(at)


def _line(at: Path_, lines: dict[Path_, int]) -> int:
    while at and at not in lines:
        at = at[:-1]
    return lines.get(at, 1)


def _say(error: ErrorDetails, at: Path_) -> str:
    match error["type"]:
        case "extra_forbidden":
            return f"unknown key; {suggestion(str(at[-1]), _siblings(error['loc']))}"
        case "missing":
            return "this key is missing."
        case "value_error":
            return str(error["ctx"]["error"])
        case _:
            return f"{error['msg']} (got {error['input']!r})"


def _siblings(loc: tuple[int | str, ...]) -> Iterable[str]:
    """The keys that the model at `loc`'s parent knows."""
    schema = UseCase.model_json_schema()
    node: dict[str, Any] = schema
    for part in loc[:-1]:
        node = _resolve(node, schema)
        if "oneOf" in node:
            node = _resolve({"$ref": node["discriminator"]["mapping"][str(part)]}, schema)
        elif isinstance(part, int):
            node = node.get("items", {})
        else:
            node = node.get("properties", {}).get(part) or node.get("additionalProperties") or {}
    node = _resolve(node, schema)
    return list(node.get("properties", {}))


def _resolve(node: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    while True:
        if "$ref" in node:
            node = schema["$defs"][node["$ref"].rsplit("/", 1)[1]]
        elif "anyOf" in node:
            node = next(n for n in node["anyOf"] if n.get("type") != "null")
        elif "allOf" in node:
            node = node["allOf"][0]
        else:
            return node


def json_schema() -> dict[str, Any]:
    """The published JSON Schema (2020-12) of a use-case file, for editors."""
    schema = UseCase.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "FastTrack use case", **schema}


def canonical_text(usecase: UseCase) -> str:
    """The use case as YAML text without comments: the same for all files that say the same."""
    # Not JSON: YAML 1.1 reads its 5e-05 as a word.
    return yaml.safe_dump(dump(usecase), sort_keys=False, allow_unicode=True, width=120)


def dump(usecase: BaseModel) -> dict[str, Any]:
    """The use case as plain JSON values, such that `UseCase.model_validate` gives it back."""
    return usecase.model_dump(mode="json", exclude_none=True)
