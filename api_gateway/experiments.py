"""The gateway's part in rollouts: draws arms, counts, mirrors, and once a second exchanges that for decisions."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar
from uuid import UUID, uuid4

from api_gateway.deployments import Served
from api_gateway.observability import Metrics, log, log_failure
from fasttrack.errors import FastTrackError, InvalidRequestError, NotFoundError, UnavailableError
from fasttrack.rollout.arms import Arm, arm, place
from fasttrack.rollout.counts import Window
from fasttrack.rollout.observing import Observer
from fasttrack.rollout.records import Running

#: Takes this gateway's name and what it counted; gives what runs. `fasttrack.rollout.store.Rollouts.exchange`.
Exchange = Callable[[str, Sequence[tuple[UUID, int, Window]]], Sequence[Running]]
Found = TypeVar("Found")
#: An arm that needs more of a request's time than this has failed it: the other one must still be able to answer.
SHARE: Final = 0.5
_UNSENT: Final = 600
#: Mirrored requests under way, and the bytes that they hold; one may always be.
_MIRRORED: Final = 32
_MIRRORED_BYTES: Final = 16_777_216
_EVERY_SECONDS: Final = 1.0


@dataclass
class _Known:
    running: Running
    observer: Observer
    until: float
    champion: Served | None = None
    challenger: Served | None = None

    def servers(self, champion: Served) -> Served:
        """The challenger's servers, under the champion's rules: who may call, how often, and what is a good request."""
        if self.challenger is None or self.champion is not champion:
            target = self.running.target
            self.champion = champion
            self.challenger = replace(
                champion,
                version=target.version,
                digest=target.digest,
                signature=target.signature,
                transformer=target.transformer_url.rstrip("/"),
                explainer=target.explainer_url.rstrip("/"),
                deployment=target,
            )
        return self.challenger


@dataclass(frozen=True, slots=True)
class Assignment:
    """A request's arm, with the servers of that arm and of the champion."""

    known: _Known
    arm: Arm
    position: float
    served: Served
    champion: Served

    @property
    def rollout(self) -> UUID:
        """The rollout's id."""
        return self.known.running.id


class Experiments:
    """The rollouts that run, as last heard of. Without news the challengers' leases end, and champions answer alone."""

    def __init__(self, exchange: Exchange, metrics: Metrics) -> None:
        self._exchange = exchange
        self._metrics = metrics
        self._gateway = uuid4().hex
        self._number = 0
        self._known: dict[str, _Known] = {}
        self._unsent: deque[tuple[UUID, int, Window]] = deque(maxlen=_UNSENT)
        self._mirrors: set[asyncio.Task[None]] = set()
        self._mirrored_bytes = 0
        self._fresh = True

    def assign(self, served: Served, key: Callable[[Running], bytes]) -> Assignment | None:
        """The arm of a request; None where no rollout runs or nobody decides on it any more.

        Args:
            served: the champion.
            key: what is kept in one arm (`fasttrack.rollout.arms.key_bytes`).
        """
        known = self._known.get(served.name)
        if known is None or known.until <= time.monotonic() or known.running.target.version == served.version:
            return None
        running = known.running
        position = place(running.id, key(running))
        drawn = arm(position, running.plan.weight(running.step))
        chosen = known.servers(served) if drawn == "challenger" else served
        return Assignment(known, drawn, position, chosen, served)

    async def asked(
        self,
        assignment: Assignment,
        ask: Callable[[Served, float], Awaitable[Found]],
        *,
        started: float,
        deadline: float,
    ) -> tuple[Found, Served]:
        """Ask the arm's servers; where the challenger fails, the champion answers instead. Also tells who did.

        Args:
            assignment: the arm.
            ask: asks servers until a moment of the monotonic clock.
            started, deadline: of the request, on that clock.

        Raises:
            FastTrackError: as `ask` does, of the arm that had to answer.
        """
        challenged, patience = assignment.arm == "challenger", (deadline - started) * SHARE
        begun = time.monotonic()
        try:
            found = await ask(assignment.served, begun + patience if challenged else deadline)
        except FastTrackError as error:
            gone = isinstance(error, UnavailableError)
            if not challenged:
                self._count(assignment, begun, failed=gone)
                raise
            if gone:
                self._count(assignment, begun, failed=True)
            refused = isinstance(error, (InvalidRequestError, NotFoundError))
            if not (gone or refused):
                raise
            found = await ask(assignment.champion, deadline)
            if refused:
                # Had the champion refused it as well, the request would be to blame.
                self._count(assignment, begun, failed=True)
            return found, assignment.champion
        self._count(assignment, begun, failed=time.monotonic() - begun > patience)
        return found, assignment.served

    def mirror(
        self,
        assignment: Assignment,
        ask: Callable[[Served, float], Awaitable[Found]],
        answered: Found,
        *,
        probabilities: Callable[[Found], Sequence[float] | None],
        seconds: float,
        size: int = 0,
    ) -> None:
        """In mode shadow, ask the challenger too, after the answer, and compare; beyond a limit, only count.

        Args:
            assignment: the request's.
            ask: as in `asked`.
            answered: what the champion said.
            probabilities: reads an answer's probabilities, one a row; None: it has none to compare.
            seconds: that the challenger may take.
            size: bytes that the request and its answer hold until then.
        """
        known = assignment.known
        if known.running.plan.mode != "shadow":
            return
        if len(self._mirrors) >= _MIRRORED or (self._mirrors and self._mirrored_bytes + size > _MIRRORED_BYTES):
            known.observer.mirrored(dropped=True)
            return

        async def compared() -> None:
            found = await ask(known.servers(assignment.champion), time.monotonic() + seconds)
            ours = probabilities(answered)
            known.observer.mirrored(ours, None if ours is None else probabilities(found))

        def left(task: asyncio.Task[None]) -> None:
            self._mirrors.discard(task)
            self._mirrored_bytes -= size

        task = asyncio.create_task(self._mirrored(known, compared))
        self._mirrors.add(task)
        self._mirrored_bytes += size
        task.add_done_callback(left)

    async def _mirrored(self, known: _Known, compared: Callable[[], Awaitable[None]]) -> None:
        try:
            await compared()
        except FastTrackError:
            known.observer.mirrored(failed=True)
        except Exception as error:
            log_failure("a mirrored request failed", error)
            known.observer.mirrored(failed=True)

    def _count(self, assignment: Assignment, begun: float, *, failed: bool) -> None:
        running = assignment.known.running
        assignment.known.observer.count(
            assignment.arm, assignment.position, step=running.step, failed=failed,
            seconds=time.monotonic() - begun, slow_seconds=running.slow_seconds,
        )  # fmt: skip
        self._metrics.arm(assignment.champion.name, assignment.arm, failed=failed)

    async def watch(self, ended: Callable[[], Awaitable[None]]) -> None:
        """Exchange once a second, for ever.

        Args:
            ended: called when a rollout has ended: another version may be served now.
        """
        while True:
            started = time.monotonic()
            try:
                if await self.exchange():
                    await ended()
            except Exception as error:
                # The next round may go better; meanwhile leases end by themselves.
                log_failure("the exchange on rollouts failed", error)
            await asyncio.sleep(max(0.1, _EVERY_SECONDS - (time.monotonic() - started)))

    async def exchange(self) -> bool:
        """Hand in what was counted and learn what runs; whether a rollout has ended since the last time."""
        for known in self._known.values():
            self._keep(known.running.id, known.observer.take())
        sent, asked = list(self._unsent), time.monotonic()
        try:
            found = await asyncio.to_thread(self._exchange, self._gateway, sent)
        except FastTrackError as error:
            if self._fresh and self._known:
                log("warning", "no news of the rollouts; without, their challengers get no requests", reason=str(error))
            self._fresh = False
            return False
        self._fresh = True
        numbers = {number for _, number, _ in sent}
        self._unsent = deque((each for each in self._unsent if each[1] not in numbers), maxlen=_UNSENT)
        former, self._known = self._known, {each.target.usecase: self._heard(each, asked) for each in found}
        now = {known.running.id for known in self._known.values()}
        return any(known.running.id not in now for known in former.values())

    def _heard(self, running: Running, asked: float) -> _Known:
        # Counted from before the question: the answer may have been long on its way.
        until = asked + running.lease_seconds
        known = self._known.get(running.target.usecase)
        if known is None or known.running.id != running.id:
            # Where each request is a key of its own, none comes to two gateways.
            return _Known(running, Observer(running.step, shared=running.plan.key != "request"), until)
        self._keep(running.id, known.observer.enter(running.step))
        return replace(known, running=running, until=until, champion=None, challenger=None)

    def _keep(self, rollout: UUID, windows: Sequence[Window]) -> None:
        for each in windows:
            self._number += 1
            self._unsent.append((rollout, self._number, each))

    async def close(self) -> None:
        """Hand in what is left; mirrored requests are given up."""
        for task in list(self._mirrors):
            task.cancel()
        await asyncio.gather(*self._mirrors, return_exceptions=True)
        if self._known:
            await self.exchange()
