"""Our idea of Feast's layout against Feast's own code: names of keys and fields, encoded values, connection options."""

from __future__ import annotations

import math
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.helpers import _mmh3, _redis_key
from feast.infra.online_stores.redis import RedisOnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import DoubleList, Value
from feast.type_map import feast_value_type_to_python_type
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from redis.connection import SSLConnection, parse_url

from fasttrack.errors import ConfigurationError, IntegrityError, InvalidRequestError
from fasttrack.features.online.definitions import connection_string
from fasttrack.features.online.layout import KeyLayout, decode, field_name
from fasttrack.features.online.reader import Reader
from fasttrack.settings import Settings

ROOT = Path(__file__).parents[2]

INT64 = st.integers(-(2**63), 2**63 - 1)
NUMBERS = st.floats(allow_nan=True, allow_infinity=True)
VALUES = st.one_of(
    st.builds(lambda text: Value(string_val=text), st.text()),
    st.builds(lambda text: Value(string_val=text * 200), st.text(min_size=1)),
    st.builds(lambda number: Value(int64_val=number), INT64),
    st.builds(lambda number: Value(double_val=number), NUMBERS),
    st.builds(lambda numbers: Value(double_list_val=DoubleList(val=numbers)), st.lists(NUMBERS, max_size=40)),
    st.just(Value()),
)
OURS = {"string_val", "int64_val", "double_val", "double_list_val"}


def bits(value: Any) -> Any:
    """The value and its type, in a form in which NaN equals NaN and 0.0 isn't -0.0."""
    if isinstance(value, np.ndarray | list):
        return [struct.pack("<d", number) for number in value]
    return (type(value), struct.pack("<d", value)) if isinstance(value, float) else (type(value), value)


@given(st.dictionaries(st.text(), st.text(), max_size=4), st.text())
def test_keys_are_those_of_feast(values: dict[str, str], project: str) -> None:
    key = EntityKey(join_keys=list(values), entity_values=[Value(string_val=value) for value in values.values()])
    ours = KeyLayout(project, values).encode(values)
    assert ours == _redis_key(project, key)
    assert ours == serialize_entity_key(key) + project.encode()
    assert KeyLayout(project, reversed(values)).encode({**values, "other\x00": "x"}) == ours


def test_a_key_that_is_no_unicode_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="surrogates"):
        KeyLayout("shop", ["customer"]).encode({"customer": "\ud800"})


@given(st.text(), st.text())
def test_fields_are_those_of_feast(view: str, column: str) -> None:
    assert field_name(view, column) == _mmh3(f"{view}:{column}")


@given(VALUES)
def test_values_are_those_that_feast_gives(value: Value) -> None:
    assert bits(decode(value.SerializeToString())) == bits(feast_value_type_to_python_type(value))


def test_what_is_not_there_is_null() -> None:
    assert decode(None) is None
    assert decode(b"") is None


@pytest.mark.parametrize("field", [f for f in Value.DESCRIPTOR.fields if f.name not in OURS], ids=lambda f: f.name)
def test_kinds_that_are_never_written_are_refused(field: FieldDescriptor) -> None:
    value = Value()
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        getattr(value, field.name).SetInParent()
    else:
        setattr(value, field.name, b"1" if field.type == FieldDescriptor.TYPE_BYTES else field.default_value)
    with pytest.raises(IntegrityError, match="isn't one of ours"):
        decode(value.SerializeToString())


@given(VALUES, st.integers(0, 30), st.binary(max_size=3))
def test_damaged_values_are_refused_or_read_as_feast_reads_them(value: Value, at: int, other: bytes) -> None:
    whole = value.SerializeToString()
    never_answers_otherwise_than_feast(whole[:at] + other + whole[at + len(other) :])
    never_answers_otherwise_than_feast(whole[:at])
    never_answers_otherwise_than_feast(whole + other)


@given(st.sampled_from(b"\x12\x20\x29\x7a"), st.binary(max_size=24))
def test_garbage_is_refused_or_read_as_feast_reads_it(tag: int, rest: bytes) -> None:
    never_answers_otherwise_than_feast(bytes([tag]) + rest)


def never_answers_otherwise_than_feast(stored: bytes) -> None:
    try:
        found = decode(stored)
    except IntegrityError:
        return
    try:
        expected = Value.FromString(stored)
    except DecodeError:
        pytest.fail(f"{stored.hex()} was read as {found!r}")
    assert bits(found) == bits(feast_value_type_to_python_type(expected)), stored.hex()


def test_lists_are_not_copied_number_by_number() -> None:
    found = decode(Value(double_list_val=DoubleList(val=[1.5, math.nan])).SerializeToString())
    assert isinstance(found, np.ndarray)
    assert (found.dtype, found.shape) == (np.dtype("<f8"), (2,))


@given(st.text().filter(lambda text: "," not in text), st.text().filter(lambda text: "," not in text), st.booleans())
def test_writer_and_reader_take_the_same_account(user: str, password: str, query: bool) -> None:
    account = {"username": quote(user, safe=""), "password": quote(password, safe="")}
    url = f"redis://{account['username']}:{account['password']}@there:7000/3"
    if query:
        url = f"redis://there:7000?db=3&username={account['username']}&password={account['password']}"
    nodes, options = RedisOnlineStore._parse_connection_string(connection_string(url))
    read = parse_url(url)
    assert nodes == [{"host": "there", "port": "7000"}]
    assert {name: options.get(name) for name in ("username", "password", "db")} == {
        "username": user or None, "password": password or None, "db": 3,
    }  # fmt: skip
    assert (read["host"], read["port"]) == ("there", 7000)
    assert {name: read.get(name) for name in options} == options


@pytest.mark.parametrize(
    "url",
    [
        "redis://there?ssl=true",
        "redis://there?socket_timeout=soon",
        "redis://there?colour=red",
        "redis://there/first",
        "redis://:secret/word@there",
        "unix:///there",
    ],
)
def test_urls_that_cannot_be_used_are_refused_without_their_secrets(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Reader(Settings(redis=url), "shop", [])
    assert "secret" not in str(caught.value)


def test_tls_is_checked_as_redis_checks_it() -> None:
    pool = Reader(Settings(redis="rediss://there"), "shop", [])._client.connection_pool
    connection = pool.connection_class(**pool.connection_kwargs)
    assert isinstance(connection, SSLConnection)
    assert (connection.check_hostname, connection.cert_reqs.name) == (True, "CERT_REQUIRED")


def test_a_reader_loads_neither_feast_nor_what_only_feast_and_the_lake_need() -> None:
    code = """
import sys
from fasttrack import usecase
from fasttrack.features.online import OnlineStore
from fasttrack.settings import Settings
OnlineStore(usecase.load("examples/flights/usecase.yaml"), Settings(redis="redis://127.0.0.1:1"))
print({"feast", "torch", "pandas", "pyspark", "deltalake", "sklearn", "typeguard"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "set()"
