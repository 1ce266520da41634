"""KFP's HTTP API as its official client (kfp_server_api) knows it: paths, parameters, and what bodies have to be."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl

import kfp_server_api  # type: ignore[import-untyped]

_PLAIN = {"str": str, "int": int, "float": (int, float), "bool": bool}
_SEGMENT = re.compile(r"\{\w+\}")


@dataclass(frozen=True)
class Operation:
    """One call of the API.

    Attributes:
        method: ``GET`` and so on.
        path: a regular expression.
        parameters: of the query, which KFP takes in camel case too.
        request: the model of the body; empty if it takes none.
        answer: the model of what it answers.
    """

    method: str
    path: str
    parameters: frozenset[str]
    request: str
    answer: str


@functools.cache
def operations() -> list[Operation]:
    """All calls of the client, read from its generated code."""
    services = [kind for name, kind in vars(kfp_server_api).items() if name.endswith("ServiceApi")]
    sources = [
        inspect.getsource(function)
        for service in services
        for name, function in vars(service).items()
        if name.endswith("_with_http_info")
    ]
    return [_operation(source) for source in sources]


def _operation(source: str) -> Operation:
    called = re.search(r"call_api\(\s*'([^']+)', '(\w+)'", source)
    answered = re.search(r"response_type='([^']+)'", source)
    assert called and answered, source
    body = re.search(r"body_params = local_var_params\['(\w+)'\]", source)
    typed = re.search(rf":type {body[1]}: (\S+)", source) if body else None
    names = re.findall(r"query_params\.append\(\('(\w+)'", source)
    literal = [re.escape(part) for part in _SEGMENT.split(called[1])]
    return Operation(called[2], "[^/]+".join(literal), frozenset(names), typed[1] if typed else "", answered[1])


def asked(method: str, url: str, body: Any) -> tuple[Operation | None, list[str]]:
    """The call that a request is, and what is wrong with it."""
    path, _, query = url.partition("?")
    fitting = [each for each in operations() if each.method == method and re.fullmatch(each.path, path)]
    if not fitting:
        return None, [f"{method} {path} is no call of the API"]
    found = fitting[0]
    given = {name for name, _ in parse_qsl(query)}
    wrong = [f"{method} {path} takes no parameter {name}" for name in sorted(given - found.parameters)]
    if found.request and body is None:
        wrong.append(f"{method} {path} wants a {found.request}")
    if body is not None:
        wrong += breaches(body, found.request) if found.request else [f"{method} {path} takes no body"]
    return found, wrong


def breaches(value: Any, model: str, at: str = "") -> list[str]:
    """Where a JSON value is not what a model of the client says; empty if it is."""
    return list(_walk(value, model, at or model))


def _walk(value: Any, model: str, at: str) -> Iterator[str]:
    if value is None or model == "object":
        return
    if inner := re.fullmatch(r"(?:list\[|dict\(str, )(.+)[\])]", model):
        container = list if model.startswith("list") else dict
        if not isinstance(value, container):
            yield f"{at} is no {container.__name__}: {value!r}"
            return
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _walk(item, inner[1], f"{at}[{key}]")
    elif model in _PLAIN:
        if not isinstance(value, _PLAIN[model]) or (isinstance(value, bool) and model != "bool"):
            yield f"{at} is no {model}: {value!r}"
    elif model == "datetime":
        yield from _moment(value, at)
    else:
        yield from _object(value, getattr(kfp_server_api, model), at)


def _moment(value: Any, at: str) -> Iterator[str]:
    try:
        if datetime.fromisoformat(value).tzinfo is None:
            yield f"{at} has no time zone: {value!r}"
    except (TypeError, ValueError):
        yield f"{at} is no date and time: {value!r}"


def _object(value: Any, model: Any, at: str) -> Iterator[str]:
    if hasattr(model, "allowable_values"):
        if value not in model.allowable_values:
            yield f"{at} is none of {model.allowable_values}: {value!r}"
        return
    if not isinstance(value, dict):
        yield f"{at} is no {model.__name__}: {value!r}"
        return
    types = {name: model.openapi_types[attribute] for attribute, name in model.attribute_map.items()}
    for name, item in value.items():
        if name in types:
            yield from _walk(item, types[name], f"{at}.{name}")
        else:
            yield f"{model.__name__} has no {name} (at {at})"
