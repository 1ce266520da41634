"""What the use case says is done with rows that are unlike what the model was trained on."""

from __future__ import annotations

import numpy as np
import pytest

from fasttrack.errors import ConfigurationError, IntegrityError, InvalidRequestError
from fasttrack.registry import package
from fasttrack.serving.package import ServedPackage
from fasttrack.serving.unusual import PARAMETER, UnusualRows
from tests.integration import serving_package as made


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return made.build(tmp_path_factory.mktemp("package"), steps=1)


@pytest.fixture(scope="module")
def served(built):
    return ServedPackage.open(built.path, built.verify_key)


def usecase(built, **serving):
    return built.usecase.model_copy(update={"serving": built.usecase.serving.model_copy(update=serving)})


@pytest.fixture(scope="module")
def rows(built, served):
    """An ordinary row, one that is at the end of every column, and a second ordinary one."""
    ordinary = made.raw_row(built, 3)
    odd = {name: made.greatest(built, name, value) for name, value in ordinary.items()}
    return served.encoder.encode_rows([ordinary, odd, made.raw_row(built, 5)])


def test_they_are_told_by_their_place(built, served, rows):
    assert UnusualRows(served, usecase(built, novelty_level=0.02)).judge(rows) == {PARAMETER: "1"}


def test_a_long_list_is_cut(built, served, rows):
    many = rows.take(np.ones(250, np.int64))
    told = UnusualRows(served, usecase(built, novelty_level=0.02)).judge(many)[PARAMETER]
    assert told.endswith(",99,...")


def test_they_are_refused_where_the_use_case_says_so(built, served, rows):
    check = UnusualRows(served, usecase(built, novelty_level=0.02, out_of_distribution="refuse"))
    with pytest.raises(InvalidRequestError, match="row 1"):
        check.judge(rows)
    assert check.judge(rows.take(np.array([0, 2]))) == {}


def test_they_are_ignored_where_the_use_case_says_so(built, served, rows):
    assert UnusualRows(served, usecase(built, novelty_level=0.05, out_of_distribution="ignore")).judge(rows) == {}


def test_a_package_of_before_says_nothing_and_may_not_be_relied_on(built, tmp_path, rows):
    files = {path.name: path.read_bytes() for path in built.path.iterdir()}
    kept = {name: content for name, content in files.items() if name in package.LIMITS}
    old = package.write(package.build(kept, built.private_key), tmp_path)
    served = ServedPackage.open(old, built.verify_key)
    assert served.novelty is None
    assert UnusualRows(served, usecase(built)).judge(rows) == {}
    with pytest.raises(ConfigurationError, match="Train and publish"):
        UnusualRows(served, usecase(built, out_of_distribution="refuse"))


def test_a_file_that_is_signed_and_yet_not_readable_is_named(built, tmp_path):
    files = {path.name: path.read_bytes() for path in built.path.iterdir()}
    kept = {name: content for name, content in files.items() if not name.startswith("MANIFEST")}
    kept["novelty.json"] = b'{"center": [1, 2]}'
    damaged = package.write(package.build(kept, built.private_key), tmp_path)
    with pytest.raises(IntegrityError, match=r"novelty\.json"):
        ServedPackage.open(damaged, built.verify_key)
