"""The explainer: V1 ``:explain`` by SHAP, LIME or an amortized explainer, with the model in the process."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Protocol, get_args

import orjson

from fasttrack import usecase as usecases
from fasttrack.errors import DeadlineError, InvalidRequestError
from fasttrack.explain.amortized import load
from fasttrack.explain.batched_shap import BatchedShap
from fasttrack.explain.encoded import background_rows
from fasttrack.explain.layered import LayeredModel
from fasttrack.explain.lime_values import LimeExplainer
from fasttrack.explain.results import Explanation
from fasttrack.explain.shap_values import ShapExplainer
from fasttrack.models.inference import Predictor
from fasttrack.serving.flags import ServerOptions
from fasttrack.serving.model import ServedModel
from fasttrack.serving.online import FeatureRows, Store, open_store
from fasttrack.serving.package import ServedPackage
from fasttrack.serving.rows import RawReader
from fasttrack.serving.tensors import InferenceCall, Tensor
from fasttrack.serving.trace import DEADLINE_HEADER, RequestContext, current
from fasttrack.usecase.serving import ExplanationMethod

_LOG: Final = logging.getLogger("fasttrack.serving")
METHODS: Final[tuple[ExplanationMethod, ...]] = get_args(ExplanationMethod)
#: An explanation costs about as much as a thousand predictions.
MAX_INSTANCES: Final = 64


class Explainer(Protocol):
    """What explains encoded rows."""

    def explain(self, row: Any, values: list[Any], check: Any) -> Explanation:
        """Explain a row (D,); `check` is called between parts of the work and may end it by raising."""


class ExplainerModel(ServedModel):
    """Explains single predictions (see `ServedModel`).

    It listens at once and gets ready when its explainers are prepared, some seconds later (LIME imports much).

    What can't be ready in time is not worked on: a request whose deadline is nearer than the fastest explanation so
    far would take is refused at once; one that runs into its deadline ends at the next part of its work.

    Args:
        name: name in URLs.
        package: the package that the predictor serves.
        store: the online store.
    """

    def __init__(self, name: str, package: ServedPackage, store: Store | None) -> None:
        super().__init__(name, package, MAX_INSTANCES)
        self._layered = LayeredModel(Predictor.from_files(package.files))
        self._model = self._layered.encoded
        self._reader = RawReader(package.signature, MAX_INSTANCES)
        self._rows = FeatureRows(package.encoder, store)
        # One thread: explanations keep a core busy, and two at a time would each take twice as long.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="explain")
        self._warming: asyncio.Task[None] | None = None
        self._explainers: dict[str, Explainer] = {}
        #: by method, the seconds of the fastest explanation so far
        self._fastest: dict[str, float] = {}

    async def open(self) -> None:
        """Begin to import and compile in the background."""
        self._warming = asyncio.create_task(self._warm())

    async def _warm(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._prepare)
        self.ready = True
        _LOG.info("explainer of %s is ready", self.name)

    def _prepare(self) -> None:
        background = background_rows(self._model, self.package.files["background.parquet"])
        values = [None] * len(self._model.space.names)
        shap = BatchedShap(self._layered, background)
        self._explainers = {
            "shap": shap,
            "lime": LimeExplainer(self._model.space, background),
            "permutation": ShapExplainer(self._model.space, background),
        }
        if (amortized := load(shap, self.package.files)) is not None:
            self._explainers["amortized"] = amortized
        for method in self._explainers:
            for _ in range(2):
                self._timed(method, background[0], values, RequestContext.read({}))

    async def close(self) -> None:
        """Let the running explanation finish."""
        await asyncio.to_thread(self._thread.shutdown)

    async def answer(self, call: InferenceCall) -> tuple[tuple[Tensor, ...], Mapping[str, str]]:
        """V2 inference: refused."""
        raise InvalidRequestError("the explainer doesn't predict.", fix=f"POST /v1/models/{self.name}:explain.")

    async def explain(self, payload: Any, headers: Any = None) -> dict[str, Any]:
        """Answer ``{"instances": [...], "method": "shap", "top": 5}``; see `METHODS`.

        Returns:
            ``explanations`` (one an instance, see `Explanation.to_json`), ``model_version``, ``digest``, ``as_of``.

        Raises:
            InvalidRequestError: the body is malformed, or a feature is missing or wrong.
            NotFoundError: an entity is unknown.
            UnavailableError: the online store doesn't answer.
            DeadlineError: the caller's deadline has passed.
        """
        instances, method, top = _checked(_parsed(payload))
        if method not in self._explainers:
            raise InvalidRequestError(
                f"this model package has no {method} explainer.",
                where="method",
                fix=f"Ask for {' or '.join(self._explainers)}; or put {method} under serving.explanations in the use "
                "case, and train and publish the model again.",
            )
        columns, as_of = await self._rows.columns(self._reader.instances(instances))
        rows = self._model.flatten(self._rows.encode(columns))
        at = current()
        found = []
        for position, row in enumerate(rows):
            self._require_time(method, len(rows) - position, at)
            values = self._model.values({name: column[position] for name, column in columns.items()})
            found.append(
                await asyncio.get_running_loop().run_in_executor(self._thread, self._timed, method, row, values, at)
            )
        body = {"explanations": [explanation.to_json(top) for explanation in found], **self.package.parameters()}
        return {**body, "as_of": as_of} if as_of else body

    def _require_time(self, method: str, count: int, at: RequestContext) -> None:
        """Refuse what could not be ready even if each explanation took no longer than the fastest one did."""
        left, needed = at.remaining(), count * self._fastest[method]
        if left is not None and left < needed:
            raise DeadlineError(
                f"{count} explanations by {method} take {1000 * needed:.1f} ms; {1000 * left:.1f} ms are left.",
                where=DEADLINE_HEADER,
                fix="Allow more time, ask for fewer rows, or for a faster method.",
            )

    def _timed(self, method: str, row: Any, values: list[Any], at: RequestContext) -> Explanation:
        # Others may have been before it in the queue.
        at.check()
        started = time.perf_counter()
        found = self._explainers[method].explain(row, values, at.check)
        seconds = time.perf_counter() - started
        self._fastest[method] = min(seconds, self._fastest.get(method, seconds))
        return found


def _parsed(payload: Any) -> Any:
    """The SDK parses a body only where the content type says JSON, which `curl -d` doesn't."""
    if not isinstance(payload, bytes):
        return payload
    try:
        return orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise InvalidRequestError(f"the body is not JSON: {error}.", fix='Send {"instances": [{...}]}.') from error


def _checked(payload: Any) -> tuple[list[Any], str, int | None]:
    if not isinstance(payload, dict) or not isinstance(payload.get("instances"), list):
        raise InvalidRequestError("the body has no list of instances.", fix='Send {"instances": [{...}]}.')
    unknown = sorted(payload.keys() - {"instances", "method", "top"})
    if unknown:
        raise InvalidRequestError(f"{unknown[0]!r} is unknown.", where="body", fix="There is: instances, method, top.")
    method, top = payload.get("method", "shap"), payload.get("top")
    if method not in METHODS:
        raise InvalidRequestError(
            f"{method!r} is unknown.", where="method", fix=f"Choose one of: {', '.join(METHODS)}."
        )
    if top is not None and (type(top) is not int or top < 1):
        raise InvalidRequestError(f"{top!r} is not a count.", where="top", fix="Send a whole number from 1.")
    return payload["instances"], method, top


def build(options: ServerOptions, package: ServedPackage) -> ExplainerModel:
    """The explainer of a verified package.

    Raises:
        FastTrackError: the use case or its online store can't be used.
    """
    import torch

    torch.set_num_threads(options.threads)
    usecase = usecases.load(options.usecase) if options.usecase else None
    return ExplainerModel(options.model_name, package, open_store(usecase))
