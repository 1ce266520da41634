"""Names for objects: any text becomes one, and two texts never the same."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from fasttrack.kubeflow.names import is_dns_1035, is_label_value, label_value, object_name

DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?\Z")


@given(text=st.text(max_size=200), limit=st.integers(min_value=12, max_value=63))
def test_any_text_becomes_a_name(text: str, limit: int) -> None:
    name = object_name(text, limit)
    assert DNS_1035.match(name)
    assert len(name) <= limit
    assert object_name(name, limit) == name


@given(text=st.text(max_size=200))
def test_any_text_becomes_the_value_of_a_label(text: str) -> None:
    value = label_value(text)
    assert is_label_value(value)
    assert label_value(value) == value


@given(
    left=st.text(alphabet="aA-_./ 1", max_size=70), right=st.text(alphabet="aA-_./ 1", max_size=70), limit=st.just(39)
)
def test_two_texts_never_share_a_name(left: str, right: str, limit: int) -> None:
    if left != right:
        assert object_name(left, limit) != object_name(right, limit)


def test_a_good_name_stays_as_it_is() -> None:
    assert object_name("flights-mlp", 39) == "flights-mlp"
    assert label_value("Orders_v2.x") == "Orders_v2.x"


def test_what_is_no_name() -> None:
    assert not any(map(is_dns_1035, ["", "1a", "a.b", "A", "a-", "a" * 64, "a\n"]))
    assert not any(map(is_label_value, ["a b", "-a", "a" * 64, "ü", "a\n"]))
