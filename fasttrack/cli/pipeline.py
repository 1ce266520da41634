"""`fasttrack run | demo | compile`: the training pipeline, here or for a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fasttrack.cli.output import default_usecase, options, settings, show
from fasttrack.cli.parameters import NAMESPACE, Namespace, Registry, UseCaseArgument, UseCaseFile
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
    usecase_file: UseCaseArgument = None,
    usecase: UseCaseFile = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the files.")] = Path("compiled"),
    registry: Registry = "",
    namespace: Namespace = NAMESPACE,
    gpus: Annotated[bool, typer.Option("--gpus", help="Train and predict on GPUs.")] = False,
    executors: Annotated[int, typer.Option(help="Most Spark executors at a time.", min=1, max=1000)] = 4,
    size: Annotated[
        list[str] | None, typer.Option(help="PART=CPU,MEMORY of its pods, such as train=2,8Gi; may be given again.")
    ] = None,
    replicas: Annotated[str, typer.Option(help="Least and most pods that predict, such as 2-8.")] = "2-8",
    autoscaler: Annotated[str, typer.Option(help="Who scales the servers: hpa, keda or none.")] = "hpa",
    retrain: Annotated[str, typer.Option(help="Run the pipeline on this cron schedule (UTC).")] = "",
    refresh: Annotated[str, typer.Option(help="Build the features on this cron schedule (UTC).")] = "",
    kafka: Annotated[str, typer.Option(help="Name of the Strimzi Kafka, as NAMESPACE/NAME or NAME.")] = "kafka",
    kafka_secrets_copied: Annotated[
        bool, typer.Option("--kafka-secrets-copied", help="Certificates are copied here from the Kafka's namespace.")
    ] = False,
    kafka_replicas: Annotated[int, typer.Option(help="Copies of each partition.", min=1, max=32767)] = 3,
    gateway: Annotated[str, typer.Option(help="Gateway for callers, as NAMESPACE/NAME or NAME.")] = "fasttrack",
    hostname: Annotated[str, typer.Option(help="Name that callers use.")] = "",
    graph: Annotated[str, typer.Option(help="Namespace for an InferenceGraph; it can't enforce `restricted`.")] = "",
    continuous_drain: Annotated[
        bool, typer.Option("--continuous-drain", help="Drain all the time, and not only at each run.")
    ] = False,
    leave_out: Annotated[
        list[str] | None,
        typer.Option(help="Leave out kafka, monitoring, route, schedules or sources; may be given again."),
    ] = None,
) -> None:
    """Write what a cluster needs, checked without one: pipeline, jobs, servers, topics, monitors, routes, schedules.

    Applying the folder starts nothing: what a run starts is written suspended.
    """
    from fasttrack.kubeflow.compile import compile_usecase
    from fasttrack.kubeflow.objects import Options, scaling, split_name
    from fasttrack.kubeflow.sizes import parse_sizes

    kafka_namespace, kafka_cluster = split_name(kafka, "--kafka")
    gateway_namespace, gateway_name = split_name(gateway, "--gateway")
    chosen = Options(
        gpus=gpus,
        executors=executors,
        sizes=parse_sizes(size or ()),
        scaling=scaling(replicas, autoscaler),
        retrain=retrain,
        refresh=refresh,
        kafka_cluster=kafka_cluster,
        kafka_namespace=kafka_namespace,
        kafka_secrets_copied=kafka_secrets_copied,
        kafka_replicas=kafka_replicas,
        gateway=gateway_name,
        gateway_namespace=gateway_namespace,
        hostname=hostname,
        graph_namespace=graph,
        continuous_drain=continuous_drain,
        leave_out=tuple(leave_out or ()),
    )
    path = usecase_file or usecase or default_usecase()
    paths = compile_usecase(path, output, registry=registry, namespace=namespace, options=chosen)
    show(context, [str(path) for path in paths], "\n".join(str(path) for path in paths))
