"""V2 bodies as the gateway reads them: what stands for a request when arms are drawn, and an answer's probabilities."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api_gateway.tensors import READ_BYTES, InferBody, probabilities

KEYS = ("flight_id", "leg")
Entities = list[tuple[str, str]]
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ENTITIES = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=5)


def in_json(rows: Entities, *, nested: bool = False, turned: bool = False, **document: Any) -> tuple[bytes, None]:
    inputs = [
        {"name": key, "datatype": "BYTES", "shape": [len(rows)],
         "data": [[row[place]] if nested else row[place] for row in rows]}
        for place, key in enumerate(KEYS)
    ]  # fmt: skip
    return json.dumps({"inputs": inputs[::-1] if turned else inputs, **document}).encode(), None


def in_binary(rows: Entities, **document: Any) -> tuple[bytes, str]:
    inputs, tail = [], b""
    for place, key in enumerate(KEYS):
        raw = b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in (row[place] for row in rows))
        inputs.append({"name": key, "datatype": "BYTES", "shape": [len(rows)],
                       "parameters": {"binary_data_size": len(raw)}})  # fmt: skip
        tail += raw
    head = json.dumps({"inputs": inputs, **document}).encode()
    return head + tail, str(len(head))


def question(body: tuple[bytes, str | None]) -> Any:
    return InferBody(*body).question(KEYS)


@given(ENTITIES)
def test_the_same_entities_are_the_same_question_in_whatever_form_they_come(rows: Entities) -> None:
    forms = [
        in_json(rows),
        in_json(rows, nested=True),
        in_json(rows, turned=True, id="7", parameters={"binary_data_output": True}, outputs=[{"name": "value"}]),
        in_binary(rows),
        in_binary(rows, id="8"),
    ]
    found = [question(form) for form in forms]
    assert all(each == found[0] for each in found)
    # One row is what `/v1` asks with; several are all of them, in their order.
    columns = {key: [row[place] for row in rows] for place, key in enumerate(KEYS)}
    assert found[0] == ({key: values[0] for key, values in columns.items()} if len(rows) == 1 else columns)


@given(ENTITIES, ENTITIES)
def test_other_entities_are_another_question(one: Entities, other: Entities) -> None:
    assert (question(in_json(one)) == question(in_binary(other))) == (one == other)


FEATURES = [{"name": "distance", "datatype": "FP32", "shape": [1], "data": [719]}]


def features(**document: Any) -> tuple[bytes, None]:
    return json.dumps({"inputs": FEATURES, **document}).encode(), None


def test_without_keys_it_is_the_inputs_and_nothing_else() -> None:
    assert question(features()) == question(features(id="7", outputs=[{"name": "value"}]))
    assert question(features()) != question(features(inputs=[{**FEATURES[0], "data": [720]}]))
    head = b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","parameters":{"binary_data_size":4}}]}'
    bodies = [head + struct.pack("<f", value) for value in (1, 1, 2)]
    first, again, other = (question((body, str(len(head)))) for body in bodies)
    assert first == again != other


@pytest.mark.parametrize(
    "body",
    [
        (b"", None), (b"[]", None), (b"{}", None), (b'{"inputs":[1]}', None), (b'{"inputs":{"a":1}}', None),
        (b'{"inputs":[{"name":[]},{"name":1}]}', None), (b'{"inputs":[]}', "99"), (b'{"inputs":[]}', "x"),
        (b'{"inputs":' + b"[" * 300 + b"]" * 300 + b"}", None), (in_json([("a", "b")])[0][:-1], None),
        (in_binary([("a", "b")])[0][:-1], in_binary([("a", "b")])[1]), (b"\xff\x00", None),
        (in_json([("a" * READ_BYTES, "b")])[0], None),
    ],
)  # fmt: skip
def test_what_can_not_be_read_is_told_apart_by_its_bytes(body: tuple[bytes, str | None]) -> None:
    assert question(body) == {"body": InferBody(*body).digest}
    assert InferBody(*body).rows == 1


@pytest.mark.parametrize(
    "data", [[], [1], [None], "a", ["a", "b"]], ids=["no row", "a number", "null", "no list", "more than the other"]
)
def test_what_are_no_entities_is_no_question_about_some(data: Any) -> None:
    inputs = [{"name": "flight_id", "datatype": "BYTES", "shape": [1], "data": data},
              {"name": "leg", "datatype": "BYTES", "shape": [1], "data": ["x"]}]  # fmt: skip
    assert list(question((json.dumps({"inputs": inputs}).encode(), None))) in (["inputs"], ["body"])


@given(st.binary(max_size=200), st.one_of(st.none(), st.text("0123456789-x", max_size=4)))
def test_nothing_that_comes_makes_reading_fail(content: bytes, json_length: str | None) -> None:
    body = InferBody(content, json_length)
    assert body.rows >= 1
    assert body.question(KEYS)
    assert probabilities(content, json_length) is None


def test_rows_are_those_of_the_largest_input() -> None:
    for shape, rows in (([7], 7), ([0], 1), ([], 1), (["x"], 1), ([1e400], 1)):
        content = json.dumps({"inputs": [{"shape": shape}]}).replace("Infinity", "1e400").encode()
        assert InferBody(content, None).rows == rows


def answer(*outputs: dict[str, Any], tail: bytes = b"") -> tuple[bytes, str | None]:
    head = json.dumps({"outputs": outputs}).encode()
    return head + tail, str(len(head)) if tail else None


def test_probabilities_are_read_of_json_and_of_binary_answers() -> None:
    value = {"name": "value", "datatype": "FP32", "shape": [2], "data": [20.0, 30.0]}
    plain = {"name": "probability", "datatype": "FP32", "shape": [2], "data": [[0.25], [0.5]]}
    assert probabilities(*answer(value, plain)) == [0.25, 0.5]
    for datatype, code in (("FP32", "f"), ("FP64", "d")):
        tail = struct.pack("<2f", 20, 30) + struct.pack(f"<2{code}", 0.25, 0.5)
        sizes = ({"binary_data_size": 8}, {"binary_data_size": len(tail) - 8})
        named = zip(("value", "probability"), ("FP32", datatype), sizes, strict=True)
        binary = [{"name": name, "datatype": kind, "shape": [2], "parameters": size} for name, kind, size in named]
        assert probabilities(*answer(*binary, tail=tail)) == [0.25, 0.5]
    assert probabilities(*answer(value)) is None
    assert probabilities(*answer({**plain, "data": [None, 0.5]})) is None
    short = {"name": "probability", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8}}
    assert probabilities(*answer(short, tail=b"1234")) is None
    assert probabilities(*answer(short, tail=struct.pack("<2f", 0.5, float("nan")))) is None
