"""What each transaction of a replay of dead letters sent: a message of the transaction itself, in a topic of ours.

So it is there if, and only if, all the others are, and nobody has to look for these: other producers' open
transactions would hide them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime

import orjson

from fasttrack.ingest.broker import Broker
from fasttrack.ingest.scan import scan
from fasttrack.ingest.transaction import Sending, Transaction

_LOOK_SECONDS = 0.02


@dataclass(frozen=True)
class Receipt:
    """Where the messages of a round are, in the order of their dead letters' places.

    Attributes:
        round, at: of the intent; the moment tells it from the same round of a lake that was restored.
        topics: by stream, the id of the topic that they were sent to.
        partitions, offsets: of each message.
    """

    round: int
    at: str
    topics: Mapping[str, str]
    partitions: list[int]
    offsets: list[int]


class Receipts:
    """The receipts of those who share one lake's table of intents.

    Args:
        broker: the cluster.
        usecase: the use case's name.
        owner: the table's id: each lake replays for itself.
    """

    def __init__(self, broker: Broker, usecase: str, owner: str) -> None:
        self._broker, self._key = broker, owner.encode()
        self.topic = f"{usecase}.deadletters"

    def end(self) -> int:
        """An offset before which no receipt to come will be; the topic is made if it is missing.

        Raises:
            ConflictError: there is a topic of this name with several partitions.
            UnavailableError: the broker does not answer.
        """
        self._broker.create({self.topic: 1}, compacted=True)
        return self._broker.offsets(self._broker.require([self.topic]))[self.topic, 0].latest

    def find(self, transaction: Transaction, number: int, at: datetime, since: int) -> Receipt | None:
        """The receipt of a round, if an earlier transaction committed one at or behind the offset `since`.

        What the broker shows right after its start, or while another lake's replay is undecided, is not all: a message
        is sent in the transaction, and all before that one is read.

        Raises:
            UnavailableError: the broker does not answer, or another's transaction stays open.
            ConflictError: another replay has taken the place of this one.
        """
        (mark,) = transaction.send([Sending(self.topic, 0, self._key, orjson.dumps({"round": number}))])
        held = self._broker.require([self.topic])
        deadline = time.monotonic() + self._broker.patience
        while (seen := self._broker.offsets(held)[self.topic, 0]).latest < mark:
            if time.monotonic() > deadline:
                raise self._broker.unavailable(f"another's transaction on {self.topic} is open")
            time.sleep(_LOOK_SECONDS)
        found = None
        for message in scan(self._broker, self.topic, 0, max(since, seen.earliest), mark - 1):
            document = orjson.loads(message.value() or b"{}")
            if message.key() == self._key and (document.get("round"), document.get("at")) == (number, at.isoformat()):
                found = Receipt(**document)
        return found

    def send(self, transaction: Transaction, receipt: Receipt) -> None:
        """Make a receipt part of the transaction that it is about.

        Raises:
            UnavailableError, ConflictError: as for `Transaction.send`.
        """
        transaction.send([Sending(self.topic, 0, self._key, orjson.dumps(asdict(receipt)))])
