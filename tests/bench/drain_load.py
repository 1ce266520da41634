"""The load of the drain's benchmark: events of about 220 bytes as JSON, in four partitions, made as they are sent."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from fasttrack.ingest import schemas
from fasttrack.ingest.broker import Broker
from fasttrack.ingest.encode import keys, values
from fasttrack.ingest.plan import partitions
from fasttrack.ingest.publisher import Publisher
from fasttrack.lake.schemas import event_schema
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase, parse

STREAM = "ordered"
_PARTITIONS = 4
_CHUNK = 100_000
_KEYS = 50_000
# One copy in a hundred messages, one in a thousand malformed.
_COPY_EVERY, _BAD_EVERY = 100, 1000

#: What the contract asks of an event, as Spark's SQL; types are the parser's to check.
CONTRACT = """
length(event_id) <= 40 AND customer_id RLIKE '^c[0-9]+$' AND ordered_at IS NOT NULL
AND country IN ('DE', 'FR', 'US', 'IN', 'BR') AND amount BETWEEN 0 AND 10000 AND pieces BETWEEN 1 AND 500
AND warehouse IS NOT NULL AND express IS NOT NULL
"""
_YAML = """
api_version: fasttrack.ai/v1
name: {name}
streams:
  ordered: &orders
    key: customer_id
    event_id: event_id
    event_time: ordered_at
    partitions: 4
    encoding: {encoding}
    dedup_window: 12h
    fields:
      event_id: {{type: string, max_length: 40}}
      customer_id: {{type: string, pattern: "c[0-9]+"}}
      ordered_at: {{type: timestamp}}
      country: {{type: string, enum: [DE, FR, US, IN, BR]}}
      amount: {{type: number, minimum: 0, maximum: 10000}}
      discount: {{type: number, nullable: true}}
      pieces: {{type: integer, minimum: 1, maximum: 500}}
      warehouse: {{type: integer}}
      express: {{type: boolean}}
      promised_at: {{type: timestamp, nullable: true}}
  returned: *orders
entities:
  customer: {{keys: [customer_id]}}
prediction: {{stream: ordered, entity: customer, time_field: ordered_at, lead: 1h}}
label: {{stream: returned, field: amount, late_above: 5}}
features:
  amount: {{kind: field, field: amount}}
split: {{train_until: 2020-01-01T00:00:00Z, validate_until: 2020-02-01T00:00:00Z, test_until: 2020-03-01T00:00:00Z}}
models: [{{architecture: mlp}}]
gate: {{thresholds: [{{metric: auc, at_least: 0.5}}]}}
roles: {{user: {{may: [predict]}}}}
"""


def usecase(name: str, encoding: str) -> UseCase:
    """The measured stream `ordered`, and an empty one that every use case needs."""
    return parse(_YAML.format(name=name, encoding=encoding))


def events(low: int, high: int) -> pa.Table:
    """The events with the numbers ``low .. high - 1``; 20 arrive each second of event time."""
    number = np.arange(low, high)
    spread = (number * 2_654_435_761) % 2**32
    moment = np.datetime64("2020-01-01T00:00:00", "us") + number * np.timedelta64(50_000, "us")
    unknown = pa.array(spread % 7 == 0)
    columns = [
        pa.array([f"ordered-{n:012d}" for n in number.tolist()]),
        pa.array([f"c{n}" for n in (spread % _KEYS).tolist()]),
        pa.array(moment, pa.timestamp("us", "UTC")),
        pa.array(np.array(["DE", "FR", "US", "IN", "BR"], object)[spread % 5]),
        pa.array((spread % 1_000_000) / 100),
        pa.array((spread % 90) / 3, mask=np.asarray(unknown)),
        pa.array(spread % 500 + 1),
        pa.array(spread % 97),
        pa.array(spread % 3 == 0),
        pa.array(moment + np.timedelta64(2, "D"), pa.timestamp("us", "UTC"), mask=np.asarray(unknown)),
    ]
    return pa.table(columns, schema=event_schema(usecase("any", "json").streams[STREAM]))


def produce(case: UseCase, settings: Settings, count: int) -> int:
    """Send `count` events, and copies and malformed messages beside them.

    Returns:
        The messages' size in bytes, without keys.
    """
    broker = Broker(settings.require("kafka"))
    broker.create({case.topic(name): stream.partitions for name, stream in case.streams.items()})
    stream, topic = case.streams[STREAM], case.topic(STREAM)
    schema_id = schemas.register(settings, case, STREAM)
    publisher, size = Publisher(broker), 0
    for low in range(0, count, _CHUNK):
        table = events(low, min(count, low + _CHUNK))
        rows = np.sort(np.concatenate([np.arange(len(table)), np.arange(0, len(table), _COPY_EVERY)]))
        table = table.take(pa.array(rows))
        sent: list[bytes] = values(stream, table, schema_id).to_pylist()
        for at in range(_BAD_EVERY // 2, len(sent), _BAD_EVERY):
            sent[at] = sent[at][: len(sent[at]) // 2]
        named = keys(stream, table)
        places = partitions(named, _PARTITIONS).tolist()
        pairs = zip(sent, named.to_pylist(), places, strict=True)
        publisher.send(topic, [{"value": v, "key": k, "partition": p} for v, k, p in pairs])
        size += sum(map(len, sent))
    publisher.flush()
    return size
