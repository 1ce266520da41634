"""The rules of CRDs (``x-kubernetes-validations``), evaluated: the part of CEL that they are written in.

https://kubernetes.io/docs/reference/using-api/cel/ and https://github.com/google/cel-spec.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

from fasttrack.errors import ConfigurationError
from fasttrack.kubeflow.schemas import cel_values as values
from fasttrack.kubeflow.schemas.cel_values import Expression

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<raw>r\"\"\".*?\"\"\"|r"[^"]*"|r'[^']*')
    | (?P<text>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')
    | (?P<number>\d+(?:\.\d+)?)
    | (?P<word>[A-Za-z_]\w*)
    | (?P<mark>\|\||&&|==|!=|<=|>=|[-+*/%<>!?:.,()\[\]])
    )""",
    re.VERBOSE | re.DOTALL,
)


@lru_cache(maxsize=1024)
def compile_rule(rule: str) -> Expression:
    """A function of the rule's variables (``self``).

    Raises:
        ConfigurationError: the rule has a construct that isn't known here.
    """
    parser = _Parser(rule)
    expression = parser.ternary()
    parser.end()
    return expression


class _Parser:
    """A recursive descent over the grammar, lowest precedence first."""

    def __init__(self, rule: str) -> None:
        self._rule = rule
        self._tokens = list(self._lex(rule))
        self._at = 0

    def _lex(self, rule: str) -> Iterator[tuple[str, str]]:
        position, text = 0, rule.rstrip()
        while position < len(text):
            found = _TOKEN.match(text, position)
            if found is None:
                raise self._unknown(text[position : position + 10])
            position = found.end()
            yield str(found.lastgroup), found[str(found.lastgroup)]

    def _unknown(self, what: str) -> ConfigurationError:
        return ConfigurationError(f"{what!r} is not known in a rule.", where=self._rule, fix="Extend schemas/cel.py.")

    def _peek(self) -> str:
        return self._tokens[self._at][1] if self._at < len(self._tokens) else ""

    def _take(self, *marks: str) -> str:
        """The next token if it is one of `marks`, or any if none is given."""
        token = self._peek()
        if not token or (marks and token not in marks):
            return ""
        self._at += 1
        return token

    def _expect(self, mark: str) -> None:
        if not self._take(mark):
            raise self._unknown(self._peek() or "the end")

    def end(self) -> None:
        if self._peek():
            raise self._unknown(self._peek())

    def ternary(self) -> Expression:
        condition = self._either()
        if not self._take("?"):
            return condition
        then = self.ternary()
        self._expect(":")
        other = self.ternary()
        return lambda scope: then(scope) if condition(scope) else other(scope)

    def _either(self) -> Expression:
        left = self._both()
        while self._take("||"):
            left = values.either(left, self._both())
        return left

    def _both(self) -> Expression:
        left = self._comparison()
        while self._take("&&"):
            left = values.both(left, self._comparison())
        return left

    def _comparison(self) -> Expression:
        left = self._sum()
        while mark := self._take("==", "!=", "<=", ">=", "<", ">", "in"):
            left = values.binary(mark, left, self._sum())
        return left

    def _sum(self) -> Expression:
        left = self._product()
        while mark := self._take("+", "-"):
            left = values.binary(mark, left, self._product())
        return left

    def _product(self) -> Expression:
        left = self._unary()
        while mark := self._take("*", "/", "%"):
            left = values.binary(mark, left, self._unary())
        return left

    def _unary(self) -> Expression:
        if self._take("!"):
            inner = self._unary()
            return lambda scope: not inner(scope)
        if self._take("-"):
            inner = self._unary()
            return lambda scope: -inner(scope)
        return self._member()

    def _member(self) -> Expression:
        found = self._primary()
        while True:
            if self._take("["):
                index = self.ternary()
                self._expect("]")
                found = values.index(found, index)
            elif self._take("."):
                name = self._take()
                found = self._call(found, name) if self._take("(") else values.field(found, values.unescape(name))
            else:
                return found

    def _primary(self) -> Expression:
        if self._at >= len(self._tokens):
            raise self._unknown("the end")
        kind, found = self._tokens[self._at]
        self._at += 1
        if found == "(":
            inner = self.ternary()
            self._expect(")")
            return inner
        if found == "[":
            return values.items(self._arguments("]"))
        if kind in ("text", "raw", "number"):
            value = values.literal(kind, found)
            return lambda scope: value
        if kind != "word":
            raise self._unknown(found)
        return self._word(found)

    def _word(self, token: str) -> Expression:
        if token in ("true", "false", "null"):
            constant = {"true": True, "false": False, "null": None}[token]
            return lambda scope: constant
        if self._take("("):
            return self._function(token)
        return lambda scope: values.variable(scope, token)

    def _arguments(self, closing: str) -> list[Expression]:
        found: list[Expression] = []
        while not self._take(closing):
            found.append(self.ternary())
            if self._peek() != closing:
                self._expect(",")
        return found

    def _function(self, name: str) -> Expression:
        arguments = self._arguments(")")
        if name == "has":
            return values.has(arguments[0])
        known: dict[str, Callable[[Any], Any]] = {
            "size": len,
            "duration": values.duration,
            "int": int,
            "string": str,
            "isIP": values.is_ip,
        }
        if name not in known:
            raise self._unknown(name)
        function = known[name]
        return lambda scope: function(arguments[0](scope))

    def _call(self, target: Expression, name: str) -> Expression:
        if name in values.MACROS:
            variable = self._take()
            self._expect(",")
            body = self.ternary()
            self._expect(")")
            return values.macro(name, target, variable, body)
        if name not in values.METHODS:
            raise self._unknown(name)
        method, arguments = values.METHODS[name], self._arguments(")")
        return lambda scope: method(target(scope), *(argument(scope) for argument in arguments))
