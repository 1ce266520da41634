"""Errors cross processes by the name of their class."""

from __future__ import annotations

import pytest

from fasttrack import errors
from fasttrack.errors import FastTrackError

CLASSES = [found for found in vars(errors).values() if isinstance(found, type) and issubclass(found, FastTrackError)]


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_comes_back_as_its_own_class(kind: type[FastTrackError]) -> None:
    made = errors.rebuild(kind.__name__, "wrong", where="here", fix="Mend it.")
    assert type(made) is kind
    assert (made.what, made.where, made.fix) == ("wrong", "here", "Mend it.")


@pytest.mark.parametrize("name", ["ValueError", "annotations", "rebuild", "__builtins__", "", None, 7])
def test_only_errors_of_the_tree_come_back(name: object) -> None:
    assert errors.rebuild(name, "wrong") is None
