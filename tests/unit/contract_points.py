"""Every point that enforces a contract, driven as it is in use: examples in, a verdict on each out."""

from __future__ import annotations

import http.client
import io
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import fastavro
import jsonschema
import orjson

from fasttrack.ingest.avro import AvroRowChecker, avro_schema
from fasttrack.ingest.avrocolumns import AvroColumnChecker
from fasttrack.ingest.columncheck import Checked, ColumnChecker
from fasttrack.ingest.contracts import header, json_schema
from fasttrack.ingest.rowcheck import Rejected, RowChecker
from fasttrack.ingest.sources.message import encode
from fasttrack.registry.records import Deployment
from fasttrack.usecase import dump
from tests.unit.contract_cases import STREAM, Example, typed
from tests.unit.gateway_harness import DIGEST, ModelServer, Running, gateway, model_server
from tests.unit.ingest_usecase import usecase

AVRO = STREAM.model_copy(update={"encoding": "avro"})
TYPES = {field["name"]: field["type"] for field in avro_schema(AVRO)["fields"]}


def in_columns(checked: Checked, count: int) -> list[bool]:
    """By message, whether it is among the accepted; none is in both lists, none in neither."""
    good = set(checked.index.tolist())
    bad = {at for at, _ in checked.rejected}
    assert good.isdisjoint(bad) and good | bad == set(range(count))
    return [at in good for at in range(count)]


def json_rows(examples: list[Example]) -> list[bool]:
    """The drain's row check."""
    rows = RowChecker(STREAM)
    return [_accepts(rows.check, header(1) + one.text, one.key, {1}) for one in examples]


def json_columns(examples: list[Example]) -> Checked:
    """The drain's column check."""
    return ColumnChecker(STREAM).check([header(1) + one.text for one in examples], [one.key for one in examples], {1})


@cache
def _writer(names: tuple[str, ...]) -> tuple[str, Any]:
    """A producer's schema with these fields, each of which may be null: what the contract allows is for the reader."""
    kinds = {n: TYPES.get(n, "string") for n in names}
    fields = [{"name": n, "type": k if isinstance(k, list) else ["null", k]} for n, k in kinds.items()]
    schema = {"type": "record", "name": "event", "fields": fields}
    return json.dumps(schema), fastavro.parse_schema(schema)


def avro_messages(examples: list[Example]) -> tuple[list[bytes], dict[int, str]]:
    """The events in Avro, and the schemas that they name.

    Avro's own library writes what has Avro's types; the rest goes the way of a source's event that Avro can't write.
    """
    values, texts = [], {1: json.dumps(avro_schema(AVRO))}
    numbers: dict[str, int] = {}
    for one in examples:
        fitting = typed(one.document)
        extra = one.document.keys() - STREAM.fields.keys()
        if fitting is None or not all(name.isidentifier() for name in extra):
            # To a source, infinity is a text: no number that a contract takes.
            found = {n: str(v) if isinstance(v, float) and not math.isfinite(v) else v for n, v in one.document.items()}
            values.append(encode(AVRO, 1, found))
            continue
        text, parsed = _writer((*fitting, *sorted(extra)))
        number = numbers.setdefault(text, len(numbers) + 2)
        texts[number] = text
        stream = io.BytesIO()
        fastavro.schemaless_writer(stream, parsed, fitting | dict.fromkeys(extra, None))
        values.append(header(number) + stream.getvalue())
    return values, texts


def avro_rows(examples: list[Example]) -> list[bool]:
    """The drain's row check of Avro."""
    rows, (values, texts) = AvroRowChecker(AVRO), avro_messages(examples)
    return [_accepts(rows.check, value, one.key, texts) for value, one in zip(values, examples, strict=True)]


def avro_columns(examples: list[Example]) -> Checked:
    """The drain's column check of Avro."""
    values, texts = avro_messages(examples)
    return AvroColumnChecker(AVRO).check(values, [one.key for one in examples], texts)


def json_schema_verdicts(schema: dict[str, Any], examples: list[Example]) -> list[bool]:
    """A validator of JSON Schema on what a parser of JSON lets through."""
    # A pattern's $ is ECMA's, the end of the text; Python's is also before a last newline.
    validator = jsonschema.Draft202012Validator(_ecma(schema))
    return [_is_valid(validator, one) for one in examples]


def registered_schema(examples: list[Example]) -> list[bool]:
    """The schema of the registry."""
    return json_schema_verdicts(json_schema(STREAM), examples)


def _is_valid(validator: Any, one: Example) -> bool:
    try:
        orjson.loads(one.text)
    except orjson.JSONDecodeError:
        return False
    # Python's own parser keeps whole numbers of any length.
    return bool(validator.is_valid(json.loads(one.text)))


def _ecma(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    found = {word: _ecma(part) for word, part in node.items()}
    if isinstance(node.get("pattern"), str):
        found["pattern"] = node["pattern"].removesuffix("$") + r"\Z"
    return found


def _accepts(check: Any, *arguments: Any) -> bool:
    try:
        check(*arguments)
    except Rejected:
        return False
    return True


class GatewayPoint:
    """A gateway that serves the shop, asked over one connection."""

    def __init__(self, running: Running, server: ModelServer) -> None:
        self.running, self.server = running, server
        self._connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=60)
        self._headers = {"Content-Type": "application/json", "Authorization": f"Bearer {running.issuer.token('user')}"}

    def ask(self, one: Example) -> tuple[int, dict[str, Any]]:
        """Status and document of the answer to a prediction for this event."""
        self._connection.request("POST", "/v1/usecases/shop/predict", b'{"event": %b}' % one.text, self._headers)
        answer = self._connection.getresponse()
        return answer.status, json.loads(answer.read())

    def passed_on(self) -> list[dict[str, Any]]:
        """The events that the model server was asked about since the last time."""
        found = [json.loads(json.loads(body)["inputs"][0]["data"][0]) for _, _, body in self.server.requests]
        self.server.requests.clear()
        # The next time may be later than the gateway keeps a silent connection.
        self.close()
        return found

    def close(self) -> None:
        """Hang up; the next question connects again."""
        self._connection.close()


@contextmanager
def gateway_point(folder: Path) -> Iterator[GatewayPoint]:
    """A running gateway, with a model server that answers everything."""
    document = dump(usecase())
    document["roles"]["user"]["may"] = ["predict", "metadata"]
    document["serving"] |= {"rate_limit": {"requests": 100_000, "per": "1s", "burst": 100_000}}
    signature = {"inputs": [], "outputs": [], "features": [], "entity": {"name": "order", "keys": ["order_id"]}}
    with model_server() as server:
        found = Deployment(
            usecase="shop", version=3, digest=DIGEST, uri="/packages/x", signature=signature,
            usecase_document=document, transformer_url=server.url, predictor_url=server.url,
            explainer_url=server.url, updated_at=datetime.now(UTC),
        )  # fmt: skip
        with gateway(folder, lambda: [found]) as running:
            point = GatewayPoint(running, server)
            try:
                yield point
            finally:
                point.close()
