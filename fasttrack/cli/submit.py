"""`fasttrack submit`: the training pipeline on a cluster, started and followed."""

from __future__ import annotations

from typing import Annotated

import typer

from fasttrack.cli.output import default_usecase, show
from fasttrack.cli.parameters import NAMESPACE, Compiled, Context, Namespace, Registry, UseCaseArgument, UseCaseFile
from fasttrack.usecase import load


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(submit)


def submit(
    context: typer.Context,
    usecase_file: UseCaseArgument = None,
    usecase: UseCaseFile = None,
    host: Annotated[str, typer.Option(help="URL of KFP's API.", envvar="KF_PIPELINES_ENDPOINT")] = "",
    registry: Registry = "",
    namespace: Namespace = NAMESPACE,
    compiled: Compiled = None,
    cluster: Context = None,
    run_id: Annotated[str | None, typer.Option(help="Name of the run; default: the time.")] = None,
    token: Annotated[str, typer.Option(help="Bearer token for KFP's API.", envvar="FASTTRACK_KFP_TOKEN")] = "",
    follow: Annotated[bool, typer.Option(help="Stay until the run ends; Ctrl-C lets it go on.")] = True,
) -> None:
    """Run the pipeline on a cluster, and say what it waits for: a GPU, an image, a quota; nothing is half applied."""
    from fasttrack.kubeflow.cluster.client import connect
    from fasttrack.kubeflow.local_run import new_run_id
    from fasttrack.kubeflow.submit import submit as start

    parsed = load(usecase_file or usecase or default_usecase())
    found = start(
        parsed,
        connect(cluster, patience=10.0),
        host=host,
        run_id=run_id or new_run_id(),
        registry=registry,
        namespace=namespace,
        folder=compiled,
        token=token,
        follow=follow,
    )
    text = f"Run {found.run_id} succeeded after {found.seconds:.0f} s." if follow else f"Run {found.run_id} is started."
    show(context, found.to_json(), text)
