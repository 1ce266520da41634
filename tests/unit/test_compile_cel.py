"""The rules of CRDs: the part of CEL that they are written in."""

from __future__ import annotations

from typing import Any

import pytest

from fasttrack.errors import ConfigurationError
from fasttrack.kubeflow.schemas import kinds, resolve, schema, versions
from fasttrack.kubeflow.schemas.cel import compile_rule
from fasttrack.kubeflow.schemas.cel_values import CelError


@pytest.mark.parametrize(
    ("rule", "value", "result"),
    [
        ("self >= 1", 0, False),
        ("self.a == 'x' || !has(self.b)", {"a": "y"}, True),
        ("self.a == 'x' || self.missing", {"a": "x"}, True),
        ("self.missing && self.a == 'x'", {"a": "y"}, False),
        ("size(self) <= 2 && self.all(x, x > 0)", [1, 2], True),
        ("self.exists_one(x, x == 1)", [1, 1], False),
        ("self.filter(x, x > 1).size() <= 1", [1, 2, 3], False),
        ("self.matches('^[a-z]+$') ? true : false", "abc", True),
        ('self.matches(r"""^[-A-Za-z0-9/]+$""")', "a b", False),
        ("self in ['a', 'b']", "c", False),
        ("[has(self.a), has(self.b)].filter(x, x).size() <= 1", {"a": 1, "b": 2}, False),
        ("self.__namespace__ == 'x'", {"namespace": "x"}, True),
        ("duration(self.a) > duration('500ms')", {"a": "1s"}, True),
        ("self[0].size() + (self.size() > 1 ? 1 : 0) == 3", ["ab", ""], True),
        ("self.startsWith('/') && !self.contains('//')", "/a//b", False),
    ],
)
def test_a_rule_comes_to_its_result(rule: str, value: Any, result: bool) -> None:
    assert compile_rule(rule)({"self": value}) is result


def test_a_rule_that_asks_for_what_is_not_there_comes_to_no_result() -> None:
    with pytest.raises(CelError, match="no such key: b"):
        compile_rule("self.a == self.b")({"self": {"a": 1}})


@pytest.mark.parametrize("rule", ["self.sort()", "self ==", "quantity(self) > 1", "self # 2"])
def test_a_construct_that_is_not_known_is_told_when_schemas_are_made(rule: str) -> None:
    with pytest.raises(ConfigurationError, match=r"is not known in a rule|the end"):
        compile_rule(rule)


def rules(node: Any) -> list[str]:
    if isinstance(node, list):
        return [rule for item in node for rule in rules(item)]
    if not isinstance(node, dict):
        return []
    own = [rule["rule"] for rule in node.get("x-kubernetes-validations", ())]
    return own + [rule for value in resolve(node).values() for rule in rules(value)]


def test_every_rule_of_the_shipped_schemas_can_be_evaluated() -> None:
    found = {rule for name in kinds() for rule in rules(schema(*name.rsplit("/", 1)))}
    assert len(found) > 30
    for rule in found:
        compile_rule(rule)


def test_the_schemas_tell_the_releases_that_they_are_of() -> None:
    assert len(kinds()) == 18
    assert versions()["kserve"] == "v0.20.0"
    assert all(version[-1].isdigit() for version in versions().values())
