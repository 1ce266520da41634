"""What is deployed: read from the registry every few seconds, kept when the registry is away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from api_gateway.observability import log, log_failure
from api_gateway.validation import Validator
from fasttrack.errors import FastTrackError
from fasttrack.registry.records import Deployment
from fasttrack.usecase import UseCase

_MIN_GAP_SECONDS: Final = 0.5


@dataclass(frozen=True)
class Served:
    """A deployment, with what each request needs of it worked out once.

    Attributes:
        name: use case name.
        version, digest: of the model.
        deadline, cache_seconds: in seconds.
        entity_keys: names of the prediction entity's keys.
        signature: the package's signature.
        transformer, explainer: base URLs without a trailing slash.
    """

    name: str
    version: int
    digest: str
    usecase: UseCase
    validator: Validator
    signature: dict[str, Any]
    transformer: str
    explainer: str
    deadline: float
    cache_seconds: float
    deployment: Deployment


def compile_deployment(deployment: Deployment, *, refuse_out_of_range: bool = False) -> Served:
    """Work out what requests need.

    Raises:
        ValidationError: the use-case document is not one of this version's.
        KeyError, TypeError: the signature is malformed.
    """
    usecase = UseCase.model_validate(deployment.usecase_document)
    if usecase.serving.out_of_range is not None:
        refuse_out_of_range = usecase.serving.out_of_range == "refuse"
    return Served(
        name=deployment.usecase,
        version=deployment.version,
        digest=deployment.digest,
        usecase=usecase,
        validator=Validator(usecase, deployment.signature, refuse_out_of_range=refuse_out_of_range),
        signature=deployment.signature,
        transformer=deployment.transformer_url.rstrip("/"),
        explainer=deployment.explainer_url.rstrip("/"),
        deadline=usecase.serving.service_level.deadline.total_seconds(),
        cache_seconds=usecase.serving.cache.total_seconds(),
        deployment=deployment,
    )


class Deployments:
    """The last known deployments.

    Args:
        read: gives the registry's current deployments; runs in a thread and may block.
        refuse_out_of_range: what the validators do where a use case doesn't say.
    """

    def __init__(self, read: Callable[[], Sequence[Deployment]], *, refuse_out_of_range: bool = False) -> None:
        self._read = read
        self._refuse = refuse_out_of_range
        self._served: dict[str, Served] = {}
        self._reading: asyncio.Task[None] | None = None
        self._read_at = float("-inf")
        #: Whether the registry has answered at least once, and whether it did the last time.
        self.loaded = False
        self.fresh = False

    def __iter__(self) -> Any:
        return iter(self._served.values())

    def __len__(self) -> int:
        return len(self._served)

    def known(self, name: str) -> Served | None:
        """The deployment of a use case as last read: for callers who have not shown yet that they may ask."""
        return self._served.get(name)

    async def find(self, name: str) -> Served | None:
        """The deployment of a use case; for an unknown one the registry is asked, which happens twice a second at most.

        Whoever comes sooner after a read waits for the next: the use case may have been published in between.
        """
        served = self._served.get(name)
        if served is None:
            before = self._read_at
            await asyncio.sleep(before + _MIN_GAP_SECONDS - time.monotonic())
            # Others that waited, or the usual poll, may have asked meanwhile.
            if self._read_at == before:
                await self.refresh()
            served = self._served.get(name)
        return served

    async def refresh(self) -> None:
        """Read the registry; callers that come meanwhile wait for the same read. Never raises."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._refresh())
        await asyncio.shield(self._reading)

    async def _refresh(self) -> None:
        try:
            found = await asyncio.to_thread(self._read)
        except FastTrackError as error:
            if self.fresh or not self.loaded:
                log("warning", "the registry does not answer; the last known deployments stay", reason=str(error))
            self.fresh = False
        else:
            self._served = {d.usecase: served for d in found if (served := self._compiled(d)) is not None}
            self.fresh = self.loaded = True
        self._read_at = time.monotonic()

    def _compiled(self, deployment: Deployment) -> Served | None:
        known = self._served.get(deployment.usecase)
        if known is not None and known.deployment == deployment:
            return known
        try:
            served = compile_deployment(deployment, refuse_out_of_range=self._refuse)
        except (ValidationError, KeyError, TypeError) as error:
            # One bad document must not take the other use cases, nor the last good state of this one, away.
            log_failure("a deployment can't be used", error, usecase=deployment.usecase, version=deployment.version)
            return known
        log("info", "deployment loaded", usecase=served.name, version=served.version, digest=served.digest)
        return served
