"""The V2 codecs: what goes in comes out, and nothing malformed gets through as anything but a clear refusal."""

from __future__ import annotations

import struct

import numpy as np
import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fasttrack.errors import FastTrackError, InvalidRequestError
from fasttrack.serving import grpc_codec, rest_codec
from fasttrack.serving.tensors import InferenceAnswer, InferenceCall, Tensor, from_bytes, from_values, to_bytes


def body(**entry):
    return orjson.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2], **entry}]})


def answer(binary=True):
    outputs = (
        Tensor("p", "FP32", np.array([0.25, 0.5], np.float32)),
        Tensor("n", "INT64", np.array([[1], [2**40]])),
        Tensor("s", "BYTES", np.array(["a", "ü"], dtype=object)),
    )
    return InferenceAnswer("m", "7", "id-1", outputs, {"digest": "sha256:0"})


@pytest.mark.parametrize("data", [[1, 2.5, 3, 4], [[1, 2.5], [3, 4]]])
def test_json_data_may_be_flat_or_nested(data):
    call = rest_codec.decode(body(shape=[2, 2], data=data), None)
    np.testing.assert_array_equal(call.inputs["x"].array, np.array([[1, 2.5], [3, 4]], np.float32))
    assert call.inputs["x"].array.dtype == np.float32
    assert call.id == ""


def test_nulls_are_kept_only_where_they_may_be():
    document = body(data=[None, 2])
    assert rest_codec.decode(document, None, nullable=True).inputs["x"].array.tolist() == [None, 2.0]
    with pytest.raises(InvalidRequestError, match="FP32"):
        rest_codec.decode(document, None)


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[]", "no list of inputs"),
        (b"null", "no list of inputs"),
        (b'{"inputs": {}}', "no list of inputs"),
        (b'{"inputs": [3]}', "no name"),
        (b'{"inputs": [{"name": 3}]}', "no name"),
        (b'{"inputs": [], "id": 3}', "id is not a string"),
        (b'{"inputs": [], "parameters": 3}', "not an object"),
        (b'{"inputs": [], "outputs": [3]}', "no name"),
        (body(shape=None), "shape"),
        (body(shape=[-1]), "shape"),
        (body(shape=[2.0]), "shape"),
        (body(shape=[True, 2]), "shape"),
        (body(shape=[3]), "needs 3"),
        (body(datatype="FP31"), "FP31"),
        (body(datatype=None), "None"),
        (body(data=None), "not a list"),
        (body(data="12"), "not a list"),
        (body(data=["1", "2"]), "'1'"),
        (body(data=[True, False]), "True"),
        (body(data=[[1], 2]), "mixes"),
        (body(data=[{}, {}]), "FP32"),
        (body(datatype="INT64", data=[1.5, 2]), "INT64"),
        (body(datatype="INT8", data=[1, 300]), "INT8"),
        (body(datatype="UINT8", data=[-1, 3]), "UINT8"),
        (body(datatype="BYTES", data=[1, 2]), "1"),
        (body(datatype="BYTES", data=["a", None]), "BYTES"),
        (b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [NaN]}]}', "NaN"),
        (b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1]},'
         b' {"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}]}', "twice"),
    ],
)  # fmt: skip
def test_malformed_json_is_refused_with_a_message_that_says_why(raw, told):
    with pytest.raises(InvalidRequestError, match=told.replace("[", r"\[")):
        rest_codec.decode(raw, None)


def test_rest_binary_round_trip():
    head = orjson.dumps(
        {
            "id": "42",
            "parameters": {"binary_data_output": True},
            "inputs": [
                {"name": "x", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8}},
                {"name": "s", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 7}},
            ],
            "outputs": [{"name": "p"}, {"name": "n", "parameters": {"binary_data": False}}],
        }
    )
    tail = np.array([1.5, -2], np.float32).tobytes() + struct.pack("<I", 3) + b"abc"
    call = rest_codec.decode(head + tail, str(len(head)))
    assert call.inputs["x"].array.tolist() == [1.5, -2.0]
    assert call.inputs["s"].array.tolist() == [b"abc"]
    content, length = rest_codec.encode(answer(), call)
    document = orjson.loads(content[:length])
    by_name = {output["name"]: output for output in document["outputs"]}
    assert by_name["p"]["parameters"]["binary_data_size"] == 8
    assert "data" not in by_name["p"]
    assert by_name["n"]["data"] == [1, 2**40]
    assert np.frombuffer(content[length : length + 8], np.float32).tolist() == [0.25, 0.5]


@pytest.mark.parametrize(
    ("size", "tail", "length"),
    [
        (8, b"1234", None), (4, b"1234", None), (-1, b"12345678", None), ("8", b"12345678", None),
        (8, b"123456789", None), (8, b"12345678", "-1"),
        (8, b"12345678", "x"), (8, b"12345678", "99999"), (8, b"12345678", "3"),
    ],
)  # fmt: skip
def test_binary_that_does_not_fit_is_refused(size, tail, length):
    head = orjson.dumps(
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": size}}]}
    )
    with pytest.raises(InvalidRequestError):
        rest_codec.decode(head + tail, str(len(head)) if length is None else length)


@pytest.mark.parametrize("raw", [b"", b"\x01", b"\x05\x00\x00\x00ab", b"\xff\xff\xff\xffab", b"\x01\x00\x00\x00a" * 3])
def test_broken_strings_are_refused(raw):
    with pytest.raises(InvalidRequestError, match="length-prefixed"):
        from_bytes("s", "BYTES", (2,), raw)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.one_of(st.none(), st.text(max_size=5)))
def test_random_bytes_never_raise_anything_else(raw, length):
    for call in (raw, b'{"inputs":[' + raw + b"]}"):
        try:
            rest_codec.decode(call, length, nullable=True)
        except FastTrackError as error:
            assert error.status == 400


_ENTRY_KEYS = st.sampled_from(["name", "shape", "datatype", "data", "parameters"])
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_ENTRY_KEYS, inner),
    max_leaves=6,
)


@settings(max_examples=400, deadline=None)
@example({"name": "x", "datatype": "FP32", "shape": [2], "data": [None, []]})
@given(
    st.fixed_dictionaries(
        {"name": st.just("x"), "datatype": st.sampled_from(["FP32", "INT64", "BYTES", "BOOL", "UINT8"]) | _JSON},
        optional={
            "shape": st.just([2]) | _JSON,
            "data": _JSON | st.lists(_JSON, min_size=2, max_size=2),
            "parameters": _JSON,
        },
    )
)
def test_random_entries_never_raise_anything_else(entry):
    import json

    try:
        found = rest_codec.decode(json.dumps({"inputs": [entry]}).encode(), None, nullable=True)
    except FastTrackError as error:
        assert error.status == 400
    else:
        assert set(found.inputs) == {"x"}


@pytest.mark.parametrize("datatype", ["BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
                                      "FP16", "FP32", "FP64", "BYTES"])  # fmt: skip
def test_every_datatype_survives_its_binary_form(datatype):
    values = {"BOOL": [True, False], "BYTES": ["a", "bc"]}.get(datatype, [1, 0])
    tensor = from_values("x", datatype, (2, 1), values)
    again = from_bytes("x", datatype, (2, 1), to_bytes(tensor))
    shown = [v.decode() if isinstance(v, bytes) else v for v in again.array.reshape(-1).tolist()]
    assert shown == values
    assert again.shape == (2, 1)


@pytest.mark.parametrize("binary", [True, False])
def test_grpc_round_trip(binary):
    message = grpc_codec.encode(answer(), InferenceCall({}, binary=binary))
    assert message.parameters["digest"].string_param == "sha256:0"
    assert len(message.raw_output_contents) == (3 if binary else 0)
    if binary:
        again = grpc_codec.decode_answer(message)
        assert again.parameters == {"digest": "sha256:0"}
        assert again.outputs[1].array.tolist() == [[1], [2**40]]
        assert again.outputs[2].array.tolist() == [b"a", "ü".encode()]


def test_grpc_call_round_trip_and_contents():
    inputs = {
        "x": Tensor("x", "FP32", np.array([[1.5]], np.float32)),
        "s": Tensor("s", "BYTES", np.array([["é"]], object)),
    }
    message = grpc_codec.encode_call("m", inputs, "9", {"digest": "d"})
    call = grpc_codec.decode(message)
    assert call.binary
    assert (call.id, call.parameters) == ("9", {"digest": "d"})
    assert call.inputs["s"].array.tolist() == [["é".encode()]]
    del message.raw_input_contents[:]
    message.inputs[0].contents.fp32_contents.append(1.5)
    message.inputs[1].contents.bytes_contents.append(b"z")
    call = grpc_codec.decode(message)
    assert not call.binary
    assert call.inputs["x"].array.tolist() == [[1.5]]
    message.inputs[0].shape[0] = -1
    with pytest.raises(InvalidRequestError, match="shape"):
        grpc_codec.decode(message)


def test_grpc_raw_contents_must_match_the_inputs():
    message = grpc_codec.encode_call("m", {"x": Tensor("x", "FP32", np.zeros(1, np.float32))}, "", {})
    message.raw_input_contents.append(b"1234")
    with pytest.raises(InvalidRequestError, match="raw"):
        grpc_codec.decode(message)
