"""How far the drains of a use case are."""

from __future__ import annotations

from fasttrack.ingest.broker import Broker
from fasttrack.ingest.drain import Lake
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase


def landed(settings: Settings, shop: UseCase) -> int:
    """How many offsets all tables have decided on."""
    broker = Broker(settings.kafka)
    topics = {name: broker.require([shop.topic(name)])[shop.topic(name)] for name in shop.streams}
    lake = Lake(shop, settings, broker.cluster_id(), topics)
    lake.ensure()
    return sum(lake.marks({(n, p): 0 for n, t in topics.items() for p in range(t.partitions)}).values())
