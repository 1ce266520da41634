"""What the gateway reads of V2 requests and answers, and only where something depends on it; they pass as they are."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Final

import orjson

#: Arms of requests with longer bodies are drawn by their bytes: reading them would hold up everybody else.
READ_BYTES: Final = 262_144
_FLOATS: Final = {"FP32": ("f", 4), "FP64": ("d", 8)}
_OUTPUT: Final = "probability"


class InferBody:
    """The body of an infer request.

    Args:
        content: the whole body.
        json_length: the header ``Inference-Header-Content-Length``, if there was one.
    """

    def __init__(self, content: bytes, json_length: str | None) -> None:
        self.content = content
        self._json_length = json_length

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the body, in hexadecimal."""
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def _parts(self) -> tuple[dict[str, Any], bytes]:
        return _split(self.content, self._json_length)

    @property
    def rows(self) -> int:
        """How many rows are asked for; what can't be read is left to the model server to refuse, as one."""
        try:
            return max([1, *(int(tensor["shape"][0]) for tensor in self._parts[0]["inputs"])])
        except (ValueError, KeyError, TypeError, IndexError, OverflowError):
            return 1

    def question(self, keys: Sequence[str]) -> Any:
        """What stands for this request where arms are drawn by entity.

        For one row with the entity's keys, the same as for a prediction of that entity by ``/v1``. Several rows are one
        question, of all their entities in their order. Without keys it is the inputs, whatever the request's id and
        parameters; and where these can't be read, or the body is longer than `READ_BYTES`, the whole body.

        Args:
            keys: names of the entity's keys.
        """
        if len(self.content) > READ_BYTES:
            return {"body": self.digest}
        try:
            document, tail = self._parts
            inputs = document["inputs"]
            if sorted(tensor["name"] for tensor in inputs) == sorted(keys) and (found := _entities(inputs, tail)):
                return found
            read = hashlib.sha256(orjson.dumps(inputs, option=orjson.OPT_SORT_KEYS) + tail)
            return {"inputs": read.hexdigest()}
        except (ValueError, KeyError, TypeError, AttributeError):
            return {"body": self.digest}


def probabilities(content: bytes, json_length: str | None) -> list[float] | None:
    """An answer's output ``probability``, one value a row; None where it has none that can be read."""
    try:
        document, tail = _split(content, json_length)
        for output, raw in _with_bytes(document["outputs"], tail):
            if output["name"] == _OUTPUT:
                values = _flat(output["data"]) if raw is None else _numbers(output["datatype"], raw)
                found = [float(value) for value in values]
                return found if all(map(math.isfinite, found)) else None
    except (ValueError, KeyError, TypeError, AttributeError, struct.error):
        return None
    return None


def _split(content: bytes, json_length: str | None) -> tuple[dict[str, Any], bytes]:
    length = len(content) if json_length is None else int(json_length)
    if not 0 <= length <= len(content):
        raise ValueError("the JSON part is longer than the body")
    document = orjson.loads(content if length == len(content) else content[:length])
    if not isinstance(document, dict):
        raise TypeError("not an object")
    return document, content[length:]


def _with_bytes(tensors: Sequence[Any], tail: bytes) -> list[tuple[dict[str, Any], bytes | None]]:
    """Each tensor with its binary data; None for those whose data is JSON."""
    found: list[tuple[dict[str, Any], bytes | None]] = []
    offset = 0
    for tensor in tensors:
        size = (tensor.get("parameters") or {}).get("binary_data_size")
        if size is None:
            found.append((tensor, None))
            continue
        if type(size) is not int or not 0 <= size <= len(tail) - offset:
            raise ValueError("a tensor's bytes are missing")
        found.append((tensor, tail[offset : offset + size]))
        offset += size
    return found


def _entities(inputs: Sequence[Any], tail: bytes) -> dict[str, Any] | None:
    """The values by key: texts for one row, lists of texts for several; None where that is not what they are."""
    columns: dict[str, list[str]] = {}
    for tensor, raw in _with_bytes(inputs, tail):
        values = _flat(tensor["data"]) if raw is None else _texts(raw)
        if not values or not all(isinstance(value, str) for value in values):
            return None
        columns[tensor["name"]] = values
    sizes = {len(values) for values in columns.values()}
    if sizes == {1}:
        return {name: values[0] for name, values in columns.items()}
    return columns if len(sizes) == 1 else None


def _flat(values: Any) -> list[Any]:
    while isinstance(values, list) and values and isinstance(values[0], list):
        values = [value for part in values for value in part]
    if not isinstance(values, list):
        raise TypeError("data is not a list")
    return values


def _texts(raw: bytes) -> list[str]:
    """BYTES in binary form: each text after four bytes of its length, little-endian."""
    found: list[str] = []
    offset = 0
    while offset < len(raw):
        end = offset + 4 + int.from_bytes(raw[offset : offset + 4], "little")
        if end > len(raw):
            raise ValueError("a text is cut off")
        found.append(raw[offset + 4 : end].decode())
        offset = end
    return found


def _numbers(datatype: str, raw: bytes) -> Sequence[float]:
    code, size = _FLOATS[datatype]
    return struct.unpack(f"<{len(raw) // size}{code}", raw)
