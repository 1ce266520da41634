"""What the parts of a rule come to: fields, operators, macros and functions of CEL; `cel` reads the rules."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Any

Scope = dict[str, Any]
Expression = Callable[[Scope], Any]

MACROS = ("all", "exists", "exists_one", "filter", "map")

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(h|ms|us|ns|m|s)")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


class CelError(Exception):
    """A rule came to no result, as when it asks for a field that isn't there; Kubernetes then refuses the object."""


def literal(kind: str, token: str) -> Any:
    """The value of a number or text in a rule."""
    if kind == "number":
        return float(token) if "." in token else int(token)
    if kind == "raw":
        return token[4:-3] if token.startswith('r"""') else token[2:-1]
    # Escapes of CEL are those of Python here: backslash, quotes, n, t.
    return re.sub(r"\\(.)", lambda found: {"n": "\n", "t": "\t"}.get(found[1], found[1]), token[1:-1])


def unescape(name: str) -> str:
    """Fields whose names are words of CEL stand between double underscores."""
    return name[2:-2] if re.fullmatch(r"__[a-z]+__", name) else name


def variable(scope: Scope, name: str) -> Any:
    """The value of a variable."""
    if name not in scope:
        raise CelError(f"no variable {name}")
    return scope[name]


def field(target: Expression, name: str) -> Expression:
    """``target.name``."""

    def evaluate(scope: Scope) -> Any:
        value = target(scope)
        if not isinstance(value, dict) or name not in value:
            raise CelError(f"no such key: {name}")
        return value[name]

    return evaluate


def index(target: Expression, index: Expression) -> Expression:
    """``target[index]``."""

    def evaluate(scope: Scope) -> Any:
        try:
            return target(scope)[index(scope)]
        except (LookupError, TypeError) as error:
            raise CelError(f"no such index: {error}") from error

    return evaluate


def has(argument: Expression) -> Expression:
    """Whether the field is there."""

    def evaluate(scope: Scope) -> bool:
        try:
            argument(scope)
        except CelError:
            return False
        return True

    return evaluate


def items(items: list[Expression]) -> Expression:
    """A list of expressions."""
    return lambda scope: [item(scope) for item in items]


def either(left: Expression, right: Expression) -> Expression:
    """``left || right``."""
    return _logic(left, right, decisive=True)


def both(left: Expression, right: Expression) -> Expression:
    """``left && right``."""
    return _logic(left, right, decisive=False)


def _logic(left: Expression, right: Expression, *, decisive: bool) -> Expression:
    """Either side decides, even if the other one came to no result."""

    def evaluate(scope: Scope) -> bool:
        try:
            if bool(left(scope)) is decisive:
                return decisive
        except CelError:
            if bool(right(scope)) is decisive:
                return decisive
            raise
        return bool(right(scope))

    return evaluate


def binary(mark: str, left: Expression, right: Expression) -> Expression:
    """``left mark right`` for arithmetic and comparison."""
    operation = _OPERATIONS[mark]

    def evaluate(scope: Scope) -> Any:
        try:
            return operation(left(scope), right(scope))
        except (TypeError, ZeroDivisionError) as error:
            raise CelError(str(error)) from error

    return evaluate


def macro(name: str, target: Expression, variable: str, body: Expression) -> Expression:
    """``target.name(variable, body)``."""

    def evaluate(scope: Scope) -> Any:
        values = list(target(scope))
        results = [body({**scope, variable: value}) for value in values]
        match name:
            case "all":
                return all(results)
            case "exists":
                return any(results)
            case "exists_one":
                return sum(map(bool, results)) == 1
            case "filter":
                return [value for value, kept in zip(values, results, strict=True) if kept]
        return results

    return evaluate


def _matches(text: str, pattern: str) -> bool:
    # Go allows flags in the middle; Python wants them at the start.
    return re.search(re.sub(r"^(\^)(\(\?i\))", r"\2\1", pattern), text) is not None


def duration(text: str) -> float:
    """A duration such as ``1m30s``: seconds."""
    return sum(float(number) * _SECONDS[unit] for number, unit in _DURATION.findall(text))


def is_ip(text: str) -> bool:
    """Whether `text` is an address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


_OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "==": lambda left, right: left == right,
    "!=": lambda left, right: left != right,
    "<=": lambda left, right: left <= right,
    ">=": lambda left, right: left >= right,
    "<": lambda left, right: left < right,
    ">": lambda left, right: left > right,
    "in": lambda left, right: left in right,
    "+": lambda left, right: left + right,
    "-": lambda left, right: left - right,
    "*": lambda left, right: left * right,
    "/": lambda left, right: left // right if isinstance(left, int) and isinstance(right, int) else left / right,
    "%": lambda left, right: left % right,
}
METHODS: dict[str, Callable[..., Any]] = {
    "size": len,
    "matches": _matches,
    "startsWith": str.startswith,
    "endsWith": str.endswith,
    "contains": lambda text, part: part in text,
    "split": str.split,
    "substring": lambda text, *bounds: text[slice(*bounds)],
    "lowerAscii": str.lower,
}
