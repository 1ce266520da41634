"""Webhooks: events that others POST, in Kafka before they are answered."""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets as random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

from api_gateway import signatures
from api_gateway.declared import Declared
from api_gateway.events import LATER, away, mapped, records
from api_gateway.observability import log
from api_gateway.options import GatewayOptions
from fasttrack.errors import FastTrackError, UnavailableError
from fasttrack.ingest.sources.message import Mapper
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase
from fasttrack.usecase.sources import WebhookSource

if TYPE_CHECKING:
    from api_gateway.deliveries import Deliveries
    from api_gateway.deployments import Deployments

P = ParamSpec("P")
T = TypeVar("T")

_REMEMBERED: Final = 50_000
_REMEMBERED_SECONDS: Final = 600.0
_LARGE_BYTES: Final = 65_536
_CLOSE_SECONDS: Final = 2.0


@dataclass(frozen=True)
class Hook:
    """A declared webhook."""

    usecase: UseCase
    name: str
    source: WebhookSource


@dataclass(frozen=True)
class Receipt:
    """What became of a request: how many events it held, and whether they were there already."""

    events: int
    redelivered: bool


class Room:
    """What one request takes of the places and the memory that webhooks have."""

    def __init__(self, webhooks: Webhooks) -> None:
        self._webhooks, self._held, self._inside = webhooks, 0, False

    def enter(self) -> None:
        """Take a place.

        Raises:
            UnavailableError: all are taken.
        """
        if self._webhooks.under_way >= self._webhooks.options.webhook_in_flight:
            raise UnavailableError("too many webhooks are under way.", fix=LATER)
        self._webhooks.under_way += 1
        self._inside = True

    def take(self, size: int) -> None:
        """Hold `size` more bytes.

        Raises:
            UnavailableError: the memory for bodies is full.
        """
        self._webhooks.held += size
        self._held += size
        if self._webhooks.held > self._webhooks.options.webhook_held_bytes:
            raise UnavailableError("too many events are on their way.", fix=LATER)

    def bytes_of(self) -> Room:
        """The memory without the place, for who still needs the body once the request has gone."""
        other = Room(self._webhooks)
        other._held, self._held = self._held, 0
        return other

    def leave(self) -> None:
        """Give all of it back; safe to call twice."""
        self._webhooks.held -= self._held
        self._webhooks.under_way -= self._inside
        self._held, self._inside = 0, False


class Webhooks:
    """Takes events in for the sources of kind ``webhook``.

    Args:
        settings: `kafka` and `schema_registry` are needed once the first event comes.
        options: limits.
        declared: use cases whose webhooks are served beside those of the deployed ones.
    """

    def __init__(self, settings: Settings, options: GatewayOptions, declared: Declared) -> None:
        self.options, self.declared = options, declared
        self._settings = settings
        self._deliveries: Deliveries | None = None
        self._prepared: dict[tuple[str, str], tuple[UseCase, asyncio.Future[tuple[Mapper, Deliveries]]]] = {}
        self._opening = threading.Lock()
        self._sending: dict[bytes, asyncio.Task[int]] = {}
        self._taken: OrderedDict[bytes, tuple[float, int]] = OrderedDict()
        self._nobody = (random.token_bytes(32),)
        #: Bytes of bodies in memory, and requests under way.
        self.held, self.under_way = 0, 0

    def room(self) -> Room:
        """For one request."""
        return Room(self)

    def find(self, name: str, source: str, deployments: Deployments) -> Hook | None:
        """The webhook `source` of use case `name`: as its file declares it, else as it is deployed."""
        served = deployments.known(name)
        for usecase in (self.declared.get(name), served.usecase if served else None):
            found = usecase.sources.get(source) if usecase else None
            # The header that tells sources apart ends with the colon.
            if usecase and isinstance(found, WebhookSource) and ":" not in source:
                return Hook(usecase, source, found)
        return None

    def secrets(self, hook: Hook | None) -> tuple[bytes, ...]:
        """The hook's secrets; one that nobody knows where there is none, so that all is refused."""
        if hook is None:
            return self._nobody
        variable = hook.source.secret_env
        try:
            found = signatures.secrets(os.environ.get(variable, ""))
        except FastTrackError as error:
            log("error", "a webhook's secret can't be used", variable=variable, reason=error.what, source=hook.name)
            return self._nobody
        if not found:
            log("error", "a webhook has no secret", variable=variable, source=hook.name, usecase=hook.usecase.name)
        return found or self._nobody

    async def accept(self, hook: Hook, id: str, body: bytes, room: Room) -> Receipt:
        """Take in what a verified request holds; when it returns, its events are in their topic.

        Raises:
            InvalidRequestError: the body is not JSON (400), or too much (413).
            UnavailableError: Kafka or the registry did not confirm in time; the events may come to be there.
        """
        key = _key(hook, id, body)
        if (events := self._remembered(key)) is not None:
            return Receipt(events, True)
        task = self._sending.get(key)
        redelivered = task is not None
        if task is None:
            task = asyncio.create_task(self._send(hook, id, body))
            self._sending[key] = task
            task.add_done_callback(self._ended(key, room.bytes_of()))
        try:
            events = await asyncio.wait_for(asyncio.shield(task), self.options.webhook_seconds)
        except TimeoutError as error:
            raise away() from error
        return Receipt(events, redelivered)

    def _ended(self, key: bytes, room: Room) -> Callable[[asyncio.Task[int]], None]:
        def ended(task: asyncio.Task[int]) -> None:
            room.leave()
            del self._sending[key]
            # Whoever waited has had the error; nobody may have.
            if not task.cancelled() and task.exception() is None:
                self._taken[key] = (time.monotonic() + _REMEMBERED_SECONDS, task.result())
                if len(self._taken) > _REMEMBERED:
                    self._taken.popitem(last=False)

        return ended

    def _remembered(self, key: bytes) -> int | None:
        until, events = self._taken.get(key, (0.0, 0))
        return events if until > time.monotonic() else None

    async def _send(self, hook: Hook, id: str, body: bytes) -> int:
        large = len(body) > _LARGE_BYTES
        found = await _run(large, records, id, body, self.options.webhook_events)
        mapper, deliveries = await self._ready(hook)
        messages = await _run(large, mapped, mapper, found)
        await deliveries.send(hook.usecase.topic(hook.source.stream), messages)
        return len(messages)

    async def _ready(self, hook: Hook) -> tuple[Mapper, Deliveries]:
        """What the hook's events are made and sent with; the topic and its contract are seen to first.

        Raises:
            UnavailableError: that was not possible.
        """
        at = (hook.usecase.name, hook.name)
        usecase, preparing = self._prepared.get(at, (None, None))
        if preparing is None or usecase is not hook.usecase or (preparing.done() and preparing.exception()):
            preparing = _in_daemon(lambda: self._prepare(hook))
            self._prepared[at] = hook.usecase, preparing
        try:
            return await asyncio.shield(preparing)
        except FastTrackError as error:
            log("error", "a webhook can't take events in", source=hook.name, reason=str(error))
            raise away() from error

    def _prepare(self, hook: Hook) -> tuple[Mapper, Deliveries]:
        # Here, so that a gateway without webhooks doesn't load Kafka's client.
        from api_gateway.deliveries import Deliveries
        from fasttrack.ingest.broker import Broker
        from fasttrack.ingest.schemas import register

        usecase, stream = hook.usecase, hook.source.stream
        contract = usecase.streams[stream]
        broker = Broker.at(self._settings, patience=self.options.webhook_seconds)
        broker.create({usecase.topic(stream): contract.partitions})
        schema_id = register(self._settings, usecase, stream)
        with self._opening:
            if self._deliveries is None:
                self._deliveries = Deliveries(self._settings)
        return Mapper(hook.name, hook.source, contract, schema_id), self._deliveries

    async def close(self) -> None:
        """Give what is under way a moment more, then give it up; no request waits for it any longer."""
        if self._deliveries is not None:
            await self._deliveries.close(_CLOSE_SECONDS)
        tasks = list(self._sending.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _run(apart: bool, function: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """Call a function; `apart`, in a thread: it takes so long that others would wait."""
    return await asyncio.to_thread(function, *arguments, **options) if apart else function(*arguments, **options)


def _in_daemon(function: Callable[[], T]) -> asyncio.Future[T]:
    """Call a function in a thread that neither keeps the loop's own threads from others nor the process from ending."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            done = partial(future.set_result, function())
        except Exception as error:
            done = partial(future.set_exception, error)
        if not loop.is_closed():
            loop.call_soon_threadsafe(lambda: future.done() or done())

    threading.Thread(target=run, name="webhooks", daemon=True).start()
    return future


def _key(hook: Hook, id: str, body: bytes) -> bytes:
    """Tells one delivery from another; a sender that uses an id for two bodies loses neither."""
    head = "\0".join([hook.usecase.name, hook.name, id, ""]).encode()
    return hashlib.blake2b(head + hashlib.sha256(body).digest(), digest_size=16).digest()
