"""Who predicts encoded rows for the transformer: another process, or the model in this one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from fasttrack.models import Batch
from fasttrack.serving.flags import IN_PROCESS, ServerOptions
from fasttrack.serving.package import ServedPackage
from fasttrack.serving.tensors import Array, Tensor
from fasttrack.serving.upstream import PredictorClient, connect
from fasttrack.settings import Settings
from fasttrack.tls import ClientTls


class Predicting(Protocol):
    """Predicts encoded rows."""

    async def open(self) -> None:
        """Prepare on the running event loop."""

    async def predict(self, batch: Batch, identity: str) -> tuple[Mapping[str, Array], Mapping[str, str]]:
        """The outputs by name, and the response parameters, for the request of this id."""

    async def close(self) -> None:
        """Release what `open` took."""


class Remote:
    """The predictor is a server; it is connected to lazily, as it may start later.

    Args:
        options: say where it is.
        package: the same package that it serves; it refuses another.

    Raises:
        ConfigurationError: it speaks TLS, and the settings for that can't be used.
    """

    def __init__(self, options: ServerOptions, package: ServedPackage) -> None:
        self._options, self._package = options, package
        self._tls = ClientTls.from_settings(Settings.from_environment()) if options.predictor_use_ssl else None
        self._client: PredictorClient | None = None

    async def open(self) -> None:
        """See `Predicting`."""
        options = self._options
        self._client = connect(
            options.predictor_protocol, options.predictor_host, options.model_name, options.predictor_timeout, self._tls
        )

    async def predict(self, batch: Batch, identity: str) -> tuple[Mapping[str, Array], Mapping[str, str]]:
        """See `Predicting`.

        Raises:
            UnavailableError, DeadlineError: the predictor doesn't answer, or not in time.
            ConflictError: it serves another package.
        """
        if self._client is None:
            raise RuntimeError("open() was not called")
        arrays = batch.tensors()
        tensors = {s.name: Tensor(s.name, s.datatype, arrays[s.name]) for s in self._package.signature.inputs}
        answer = await self._client.infer(tensors, identity, {"digest": self._package.digest})
        return {tensor.name: tensor.array for tensor in answer.outputs}, answer.parameters

    async def close(self) -> None:
        """See `Predicting`."""
        if self._client is not None:
            await self._client.close()


class InProcess:
    """The model is in this process: rows are neither written nor sent.

    Args:
        package: the package.
        threads: of one forward pass.
    """

    def __init__(self, package: ServedPackage, threads: int) -> None:
        # Imported here: a transformer with a predictor beside it loads no torch.
        from fasttrack.serving import predictor

        self._model = predictor.Model(package, threads)

    async def open(self) -> None:
        """See `Predicting`."""

    async def predict(self, batch: Batch, identity: str) -> tuple[Mapping[str, Array], Mapping[str, str]]:
        """See `Predicting`."""
        return await self._model.predict(batch), {}

    async def close(self) -> None:
        """See `Predicting`."""


def chosen(options: ServerOptions, package: ServedPackage) -> Predicting:
    """What the flags say."""
    return InProcess(package, options.threads) if options.predictor_protocol == IN_PROCESS else Remote(options, package)
