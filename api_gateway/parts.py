"""The parts of one gateway, made once and handed to every request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from api_gateway.audit import AuditWriter
from api_gateway.cache import AnswerCache
from api_gateway.declared import Declared
from api_gateway.deployments import Deployments
from api_gateway.experiments import Experiments
from api_gateway.keys import KeyStore
from api_gateway.limits import Limiter
from api_gateway.observability import Metrics, log_failure
from api_gateway.options import GatewayOptions
from api_gateway.redis_link import RedisLink
from api_gateway.spool import Spool
from api_gateway.tokens import TokenVerifier
from api_gateway.upstream import Upstreams
from api_gateway.webhooks import Webhooks
from fasttrack.redis_wire import secured
from fasttrack.registry.store import Registry
from fasttrack.rollout.store import Rollouts
from fasttrack.settings import Settings
from fasttrack.tls import ClientTls


@dataclass
class Parts:
    """What a request needs besides itself."""

    options: GatewayOptions
    metrics: Metrics
    keys: KeyStore
    verifier: TokenVerifier
    deployments: Deployments
    redis: RedisLink
    limiter: Limiter
    cache: AnswerCache
    upstreams: Upstreams
    audit: AuditWriter
    webhooks: Webhooks
    experiments: Experiments
    rollouts: Rollouts
    registries: tuple[Registry, ...] = ()
    #: Whether this process is about to end: it is not ready, and each answer asks its client to connect elsewhere.
    leaving: bool = False

    @classmethod
    def build(cls, settings: Settings, options: GatewayOptions) -> Parts:
        """Make the parts; nothing is connected yet.

        Raises:
            ConfigurationError: a setting that the gateway needs is missing or malformed, or names a file of no use.
            StorageError: the spool folder can't be made.
        """
        dsn, tls = settings.require("postgres"), ClientTls.from_settings(settings)
        metrics = Metrics()
        keys = KeyStore(
            settings.require("jwks"),
            refresh_seconds=options.keys_refresh_seconds,
            cooldown_seconds=options.keys_cooldown_seconds,
            issuer=settings.require("issuer"),
        )
        verifier = TokenVerifier(
            keys,
            issuer=settings.require("issuer"),
            audience=settings.require("audience"),
            skew=options.clock_skew_seconds,
            max_bytes=options.max_token_bytes,
        )
        redis = RedisLink(secured(settings.require("redis"), settings), patience=options.redis_seconds)
        # Separate pools: a long batch of audit rows must not keep the deployments from being read.
        rollouts = Rollouts(dsn, pool_size=2, patience=1.0)
        reader, writer = Registry(dsn, pool_size=1, patience=1.0), Registry(dsn, pool_size=1, patience=1.0)
        return cls(
            options=options,
            metrics=metrics,
            keys=keys,
            verifier=verifier,
            deployments=Deployments(reader.deployments, refuse_out_of_range=options.out_of_range == "refuse"),
            redis=redis,
            limiter=Limiter(redis, metrics),
            cache=AnswerCache(redis, metrics),
            upstreams=Upstreams(options, metrics, tls),
            audit=AuditWriter(
                writer, Spool(options.spool), metrics, limit=options.audit_rows, seconds=options.audit_seconds
            ),
            webhooks=Webhooks(settings, options, Declared(options.usecases)),
            experiments=Experiments(rollouts.exchange, metrics),
            rollouts=rollouts,
            registries=(reader, writer),
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Connect, keep up to date, and at the end write out what is left; nothing here has to be there to start."""
        self.audit.start()
        declared = self.webhooks.declared
        await asyncio.gather(self.redis.connect(), self.deployments.refresh(), self.keys.refresh(), declared.refresh())
        watchers = [
            asyncio.create_task(self._watch()),
            asyncio.create_task(self.experiments.watch(self.deployments.refresh)),
        ]
        try:
            yield
        finally:
            for watcher in watchers:
                watcher.cancel()
            await asyncio.gather(*watchers, return_exceptions=True)
            await self.experiments.close()
            self.rollouts.close()
            self.limiter.leave()
            await self.upstreams.close()
            await self.webhooks.close()
            await asyncio.to_thread(self.audit.close)
            self.redis.close()
            for registry in self.registries:
                registry.close()

    async def _watch(self) -> None:
        while True:
            started = time.monotonic()
            try:
                await self.limiter.count_gateways()
                await self.deployments.refresh()
                await self.webhooks.declared.refresh()
            except Exception as error:
                # Whatever it was, the next round may go better; without this loop a gateway would go blind.
                log_failure("the watch on the other parts failed", error)
            await asyncio.sleep(max(0.1, self.options.poll_seconds - (time.monotonic() - started)))
