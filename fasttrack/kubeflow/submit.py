"""``fasttrack submit``: the training pipeline on a cluster, started through KFP's API and followed to its end."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from fasttrack.errors import FastTrackError, StepError
from fasttrack.kubeflow.cluster.client import Cluster
from fasttrack.kubeflow.cluster.kinds import Object
from fasttrack.kubeflow.compile import PACKAGE, RECURRING, render
from fasttrack.kubeflow.compiled import objects_in, require_same, steps_in, written
from fasttrack.kubeflow.kfp_api import Api
from fasttrack.kubeflow.objects import Options
from fasttrack.kubeflow.plan import to_apply
from fasttrack.kubeflow.pods import PIPELINE_ACCOUNT
from fasttrack.kubeflow.preflight import require_ready
from fasttrack.kubeflow.run_watch import RunWatch
from fasttrack.kubeflow.schedules import retraining
from fasttrack.progress import note
from fasttrack.steps.frame import check_run_id
from fasttrack.usecase import UseCase, canonical_text


@dataclass(frozen=True)
class Submitted:
    """A run on a cluster.

    Attributes:
        run_id: its name in FastTrack: of its records, and on its objects as the label ``fasttrack.ai/run``.
        kfp_run: its id in KFP.
        state: how it stands, in KFP's words.
        seconds: how long it was followed.
        tasks: state of each task.
        troubles: what ailed its pods on the way.
    """

    run_id: str
    kfp_run: str
    state: str
    seconds: float
    tasks: dict[str, str]
    troubles: list[dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def submit(
    usecase: UseCase,
    cluster: Cluster,
    *,
    host: str,
    run_id: str,
    registry: str = "",
    namespace: str = "fasttrack",
    options: Options | None = None,
    folder: Path | None = None,
    token: str = "",
    follow: bool = True,
) -> Submitted:
    """Apply what a use case needs, start its pipeline, and follow it.

    Everything is looked at before anything is applied: names, kinds, permissions, quota, webhooks (a dry run of every
    object), and whether KFP answers.

    Args:
        usecase: the use case.
        cluster: the cluster.
        host: URL of KFP's API.
        run_id: name of the run's records.
        registry: what stands before the images.
        namespace: where it runs.
        options: as of `fasttrack.kubeflow.compile.render`.
        folder: take what `fasttrack compile` wrote there, instead of compiling with `registry` and `options`.
        token: bearer token for KFP's API, where it wants one.
        follow: stay until the run ends.

    Raises:
        ConfigurationError: the pipeline, or an object, would be refused, or the folder is of another use case or
            namespace; nothing was applied.
        StorageError: the folder can't be read.
        NotFoundError: there is no such namespace.
        UnavailableError: the cluster or KFP does not answer.
        StepError: the run failed; `where` names the task, the message what ailed its pods.
        KeyboardInterrupt: the following was ended; the run goes on.
    """
    check_run_id(run_id)
    if folder is None:
        contents = render(usecase, registry=registry, namespace=namespace, options=options)
    else:
        contents = written(folder)
        require_same(contents, usecase, namespace, folder)
    objects, steps = objects_in(contents), steps_in(contents)
    api = Api.connect(host, token, namespace)
    for finding in require_ready(cluster, objects):
        note(f"  {finding.name}: {finding.detail}")
    _apply(cluster, objects)
    kfp_run = _start(api, contents, usecase, run_id)
    note(f"Run {run_id} of {usecase.name} is started: {host.rstrip('/')}/#/runs/details/{kfp_run}")
    watch = RunWatch(cluster, namespace, lambda: api.run(kfp_run), run_id, kfp_run, steps=steps)
    if not follow:
        return Submitted(run_id, kfp_run, "PENDING", 0.0, {}, [])
    try:
        ended = watch.follow()
    except KeyboardInterrupt:
        note(f"No longer followed; the run goes on: {host.rstrip('/')}/#/runs/details/{kfp_run}")
        raise
    found = Submitted(run_id, kfp_run, ended, watch.seconds, watch.tasks, watch.troubles())
    if ended != "SUCCEEDED":
        raise _failure(watch, ended, run_id)
    return found


def _apply(cluster: Cluster, objects: list[Object]) -> None:
    wanted = to_apply(cluster, objects)
    for obj in wanted:
        cluster.apply(obj, force=True)
    note(f"Applied {len(wanted)} objects.")


def _start(api: Api, contents: Mapping[str, str], usecase: UseCase, run_id: str) -> str:
    """Schedule the pipeline, if it has a schedule; start it, and return the id that KFP gives the run."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "training.yaml"
        path.write_text(contents[PACKAGE], encoding="utf-8")
        if RECURRING in contents:
            wanted = orjson.loads(contents[RECURRING])
            replaced = api.schedule(wanted, str(path), usecase.name, retraining(usecase))
            cron = wanted["trigger"]["cron_schedule"]["cron"]
            note(f"Recurring run {wanted['display_name']} ({cron}); {replaced} earlier ones deleted.")
        started = api.start(
            pipeline_file=str(path),
            arguments={"usecase": canonical_text(usecase), "run_id": run_id},
            run_name=f"{usecase.name} {run_id}",
            experiment_name=usecase.name,
            enable_caching=False,
            service_account=PIPELINE_ACCOUNT,
        )
    return str(started.run_id)


def _failure(watch: RunWatch, state: str, run_id: str) -> FastTrackError:
    where = f"run {run_id}" + (f", task {watch.failed}" if watch.failed else "")
    if state in ("CANCELED", "CANCELING"):
        return StepError("the run was cancelled.", where=where, fix="Start it again: `fasttrack submit`.")
    if watch.last is not None:
        return watch.last.error(where)
    return StepError(
        f"the run ended as {state.lower()}: {watch.reason or 'KFP gives no reason'}",
        where=where,
        fix="Its report lies beside its records: report.json.",
    )
