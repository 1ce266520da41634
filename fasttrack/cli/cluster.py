"""`fasttrack plan | diff | doctor --cluster`: what a cluster has, and what would become of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from fasttrack.cli.output import default_usecase, options, show, table
from fasttrack.cli.parameters import NAMESPACE, Compiled, Context, Namespace, Registry, UseCaseArgument
from fasttrack.progress import note
from fasttrack.usecase import UseCase, load

if TYPE_CHECKING:
    from fasttrack.kubeflow.checks.finding import Finding
    from fasttrack.kubeflow.cluster.client import Cluster
    from fasttrack.kubeflow.cluster.kinds import Object
    from fasttrack.kubeflow.footprint import Footprint
    from fasttrack.kubeflow.plan import Change

#: What `plan` and `diff` end with if there is something to change and `--exit-code` is given.
CHANGED = 15
#: For how many seconds a command waits for an API server that doesn't answer.
_PATIENCE = 4.0

LeaveOut = Annotated[
    list[str] | None,
    typer.Option("--leave-out", help="As of `compile`: kafka, monitoring, route, schedules or sources."),
]
ExitCode = Annotated[bool, typer.Option("--exit-code", help=f"End with {CHANGED} if something would change.")]

#: Findings that leave nothing to be planned.
_STANDING = ("namespace",)
_SIGNS = {"create": "+", "change": "~", "replace": "-/+", "keep": "=", "remove": "-", "refused": "!"}


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (plan, diff):
        app.command()(command)


def plan(
    context: typer.Context,
    usecase: UseCaseArgument = None,
    registry: Registry = "",
    namespace: Namespace = NAMESPACE,
    leave_out: LeaveOut = None,
    compiled: Compiled = None,
    cluster: Context = None,
    offline: Annotated[bool, typer.Option("--offline", help="Only the footprint; asks no cluster.")] = False,
    exit_code: ExitCode = False,
) -> None:
    """Say what applying a use case would create, change and leave over on a cluster, and what it takes of it."""
    from fasttrack.kubeflow.footprint import footprint
    from fasttrack.kubeflow.plan import changes
    from fasttrack.kubeflow.preflight import findings
    from fasttrack.kubeflow.preflight import offline as names

    parsed = load(usecase or default_usecase())
    objects, needed = _objects(parsed, registry, namespace, leave_out, compiled)
    size = footprint(needed)
    changed: list[Change] = []
    # What no cluster would take needs none to be told.
    found = list(names(needed))
    if not offline and all(each.ok for each in found):
        server = _connect(cluster)
        found = findings(server, needed, judged=False)
        if not any(each.name in _STANDING or each.name.startswith("kind ") for each in found if not each.ok):
            changed = changes(server, parsed.name, objects, namespace, beside=needed)
            found += [each.reason for each in changed if each.reason and each.action != "remove"]
    data = {
        "usecase": parsed.name,
        "namespace": namespace,
        "offline": offline,
        "changes": [each.to_json() for each in changed],
        "findings": [each.to_json() for each in found],
        "footprint": size.to_json(),
    }
    if options(context).json:
        show(context, data)
    else:
        _print_plan(changed, found, size)
    _finish(changed, found, exit_code)


def diff(
    context: typer.Context,
    usecase: UseCaseArgument = None,
    registry: Registry = "",
    namespace: Namespace = NAMESPACE,
    leave_out: LeaveOut = None,
    compiled: Compiled = None,
    cluster: Context = None,
    fields: Annotated[bool, typer.Option("--fields", help="One line a field instead of a unified diff.")] = False,
    exit_code: ExitCode = False,
) -> None:
    """Show field by field what applying a use case would change on a cluster: old, then new."""
    from fasttrack.kubeflow.plan import changes
    from fasttrack.kubeflow.preflight import offline as names
    from fasttrack.kubeflow.preflight import raise_for, standing

    parsed = load(usecase or default_usecase())
    objects, needed = _objects(parsed, registry, namespace, leave_out, compiled)
    raise_for(names(objects))
    server = _connect(cluster)
    raise_for(standing(server, objects))
    changed = [
        each
        for each in changes(server, parsed.name, objects, namespace, beside=needed)
        if each.action != "keep" or each.reason
    ]
    if options(context).json:
        show(context, [{**each.to_json(), "unified": each.unified()} for each in changed])
    elif fields:
        for each in changed:
            _write(f"{_SIGNS[each.action]} {each.title}\n")
            _write("".join(f"    {line}\n" for line in each.differences()))
    else:
        _write("".join(each.unified() for each in changed))
    for each in changed:
        if each.reason and each.action != "remove":
            note(f"{each.title}: {each.reason.detail} {each.reason.fix or ''}".rstrip())
    _finish(changed, [each.reason for each in changed if each.reason], exit_code)


def doctor_cluster(
    context: typer.Context, usecase: Path | None, *, registry: str, namespace: str, cluster: str | None
) -> None:
    """Check a cluster; see `fasttrack.cli.platform.doctor`."""
    from fasttrack.kubeflow.doctor import examine_cluster

    _, needed = _objects(load(usecase or default_usecase()), registry, namespace, None, None)
    found = examine_cluster(_connect(cluster), needed, namespace)
    show(context, [each.to_json() for each in found], _findings_table(found))
    if not all(each.ok for each in found):
        raise typer.Exit(1)


def _objects(
    usecase: UseCase, registry: str, namespace: str, leave_out: list[str] | None, folder: Path | None
) -> tuple[list[Object], list[Object]]:
    """What would be applied, and that with what a run makes beside it."""
    from fasttrack.kubeflow.compile import render
    from fasttrack.kubeflow.compiled import jobs_in, objects_in, with_runs, written
    from fasttrack.kubeflow.objects import Options

    if folder is not None:
        contents = written(folder)
    else:
        chosen = Options(leave_out=tuple(leave_out or ()))
        contents = render(usecase, registry=registry, namespace=namespace, options=chosen)
    objects = objects_in(contents, folder or Path())
    return objects, with_runs([*objects, *jobs_in(contents)], usecase, registry=registry, namespace=namespace)


def _connect(context: str | None) -> Cluster:
    from fasttrack.kubeflow.cluster.client import connect

    return connect(context, patience=_PATIENCE)


def _print_plan(changed: list[Change], found: list[Finding], size: Footprint) -> None:
    from fasttrack.kubeflow.footprint import COLUMNS, rows

    console = Console(highlight=False)
    if changed:
        for line in sentences(changed):
            _write(line + "\n")
        _write("\n")
    console.print(table("Footprint", COLUMNS, rows(size)))
    bad = [each for each in found if each.state != "ok"]
    if bad:
        _write("\n")
        console.print(_findings_table(bad))


def sentences(changed: list[Change]) -> list[str]:
    """A plan in words: one line an object that isn't kept as it is, then the sum."""
    lines = []
    for each in changed:
        if each.action == "keep":
            continue
        lines.append(f"{_SIGNS[each.action]:>3} {each.title} {_words(each)}")
        lines += [f"      {line}" for line in each.differences()] if each.action == "change" else []
    counts = {action: sum(each.action == action for each in changed) for action in _SIGNS}
    lines.append(
        f"Plan: {counts['create']} to create, {counts['change']} to change, {counts['replace']} to replace, "
        f"{counts['remove']} no longer compiled, {counts['keep']} as they are"
        + (f", {counts['refused']} refused." if counts["refused"] else ".")
    )
    return lines


def _words(change: Change) -> str:
    count = len(change.differences())
    reason = change.reason.detail if change.reason else ""
    return {
        "create": "will be created",
        "change": f"will be changed: {count} field{'s' * (count != 1)}",
        "replace": "has to be deleted and created again: a field that can't be changed differs",
        "remove": f"is no longer compiled; it stays until you delete it: {change.reason.fix if change.reason else ''}",
        "refused": f"is refused: {reason}",
    }[change.action]


def _findings_table(found: list[Finding]) -> Table:
    state = {"ok": "ok", "note": "note", "mend": "MEND"}
    rows = [[state[each.state], each.name, each.detail, each.fix or ""] for each in found]
    made = table("", ["", "check", "found", "what to do"], rows)
    for column in made.columns:
        # A command that is cut off can't be copied.
        column.overflow = "fold"
    return made


def _finish(changed: list[Change], found: list[Finding], exit_code: bool) -> None:
    """The exit code: of what has to be mended, or `CHANGED`."""
    from fasttrack.kubeflow.preflight import error_of

    if bad := [each for each in found if not each.ok]:
        raise typer.Exit(error_of(bad).exit_code)
    if exit_code and any(each.action != "keep" for each in changed):
        raise typer.Exit(CHANGED)


def _write(text: str) -> None:
    sys.stdout.write(text)
