"""`fasttrack run | demo | compile`: the training pipeline, here or for a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fasttrack.cli.data import UseCaseFile
from fasttrack.cli.output import default_usecase, options, settings, show
from fasttrack.usecase import load


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (run, demo, compile):
        app.command()(command)


def run(
    context: typer.Context,
    usecase: UseCaseFile = None,
    run_id: Annotated[str | None, typer.Option(help="Name of the run; default: the time.")] = None,
) -> None:
    """Run the training pipeline here: drain, validate, features, tune, train, evaluate, gate, register, publish."""
    from fasttrack.kubeflow.local_run import run_local

    path = usecase or default_usecase()
    parsed = load(path)
    finished = run_local(parsed, path.read_text(), settings(context), run_id=run_id, verbose=options(context).debug)
    show(context, finished.report, f"Run {finished.run_id} succeeded; its report: {finished.folder / 'report.json'}")


def demo(
    context: typer.Context,
    usecase: UseCaseFile = None,
    sample: Annotated[float, typer.Option(help="Share of the entities, in (0, 1].", min=0.0001, max=1)] = 1.0,
    leave: Annotated[bool, typer.Option("--exit", help="End at the end, instead of staying up.")] = False,
    report: Annotated[Path | None, typer.Option(help="Also write the report to this file, as JSON.")] = None,
) -> None:
    """The main job, whole: platform, events, pipeline, model servers, and one explained prediction over HTTP."""
    from fasttrack.demo import Demo

    path = usecase or default_usecase()
    Demo(path, options(context).home, sample=sample).play(report=report, stay=not leave, json=options(context).json)


def compile(
    context: typer.Context,
    usecase: UseCaseFile = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the files.")] = Path("compiled"),
    registry: Annotated[str, typer.Option(help="Image registry to prefix, such as registry.example.com/team.")] = "",
    namespace: Annotated[str, typer.Option(help="Namespace of the objects.")] = "fasttrack",
) -> None:
    """Write what a cluster needs: KFP IR, Pipeline and PipelineVersion objects, the Katib Experiment."""
    from fasttrack.kubeflow.compile import compile_usecase

    paths = compile_usecase(usecase or default_usecase(), output, registry=registry, namespace=namespace)
    show(context, [str(path) for path in paths], "\n".join(str(path) for path in paths))
