"""`fasttrack rollout`: a challenger beside the champion, decided by always-valid tests."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from pydantic import ValidationError

from fasttrack.cli.models import registry
from fasttrack.cli.output import options, settings, show
from fasttrack.cli.parameters import NAMESPACE, Context, Registry
from fasttrack.cli.serving import Token, UseCaseName, mint
from fasttrack.client import Gateway
from fasttrack.errors import ConflictError, FastTrackError, InvalidRequestError, NotFoundError
from fasttrack.progress import note

group = typer.Typer(
    no_args_is_help=True,
    help="Send a share of the requests to a challenger; promote it when it is shown to be no worse, roll it back when "
    "it is shown to be worse. Needs a token whose role may `admin` the use case.",
)

Why = Annotated[str, typer.Option(help="The reason, kept with the decision.")]
Wait = Annotated[bool, typer.Option("--wait", help="Follow it until it ends.")]
_FOLLOW_SECONDS = 2.0


def register(app: typer.Typer) -> None:
    """Add the group to the command line."""
    app.add_typer(group, name="rollout")


@group.command("start")
def start(
    context: typer.Context,
    usecase: UseCaseName,
    version: Annotated[int, typer.Argument(help="The version of the challenger (`fasttrack models list`).")],
    why: Why,
    mode: Annotated[str, typer.Option(help="canary: in steps to the end; ab: one step until you decide; shadow: "
                                      "mirrored, never answering.")] = "canary",
    steps: Annotated[str, typer.Option(help="The challenger's share in percent, step by step; default: 5,25,50, and 50 "
                                       "for ab.")] = "",
    key: Annotated[str, typer.Option(help="What stays in one arm: entity, subject, tenant, or request.")] = "entity",
    dwell: Annotated[float, typer.Option(help="Seconds that a step takes at least.")] = 60.0,
    keys: Annotated[int, typer.Option(help="Keys that each arm must see in a step: no data, no promotion.")] = 300,
    labels: Annotated[bool, typer.Option("--labels", help="Go on only when outcomes show no loss of quality.")] = False,
    wait: Wait = False,
    cluster: Context = None,
    namespace: Annotated[str | None, typer.Option(help="On a cluster: where the model servers are.")] = None,
    image_registry: Registry = "",
    token: Token = "",
) -> None:  # fmt: skip
    """Start a challenger's servers beside the champion's, and send them a share of the requests.

    Errors and latency are tested all the time, quality when outcomes come; looking often costs nothing. A harmless
    challenger is rolled back with a probability of at most 1 %.
    """
    shares = (steps or ("50" if mode == "ab" else "5,25,50")).split(",")
    plan = _plan(mode=mode, steps=shares, key=key, dwell_seconds=dwell, keys=keys, labels=labels)
    gateway = _gateway(context, usecase, token)
    _require_none(gateway, usecase)
    _serve(context, usecase, version, cluster, namespace, image_registry)
    try:
        begun = gateway.start_rollout(usecase, {"version": version, "plan": plan, "why": why})
    except FastTrackError:
        _settle(context, usecase, None)
        raise
    _tell(context, gateway, begun, wait)


@group.command("status")
def status(context: typer.Context, usecase: UseCaseName, wait: Wait = False, token: Token = "") -> None:
    """Show the newest rollout: its step, what each arm did, the evidence, and who decided what."""
    gateway = _gateway(context, usecase, token)
    _tell(context, gateway, gateway.rollout(usecase), wait)


@group.command("promote")
def promote(context: typer.Context, usecase: UseCaseName, why: Why, token: Token = "") -> None:
    """Make the challenger the champion now, whatever the evidence says."""
    gateway = _gateway(context, usecase, token)
    _tell(context, gateway, gateway.end_rollout(usecase, "promote", why), False)


@group.command("abort")
def abort(context: typer.Context, usecase: UseCaseName, why: Why, token: Token = "") -> None:
    """End the rollout; the champion stays."""
    gateway = _gateway(context, usecase, token)
    _tell(context, gateway, gateway.end_rollout(usecase, "abort", why), False)


@group.command("outcomes")
def outcomes(
    context: typer.Context,
    usecase: UseCaseName,
    file: Annotated[Path, typer.Argument(help='JSON lines: {"entity": {"key": "..."}, "positive": true}.')],
) -> None:
    """Tell what became of entities that were predicted, so that rollouts see the models' quality.

    The first word on an entity counts; a file may be sent again.
    """
    from fasttrack.rollout.store import Rollouts

    rows = list(_outcomes(file))
    store = Rollouts(settings(context).require("postgres"))
    new = sum(store.add_outcomes(usecase, rows[at : at + 1000]) for at in range(0, len(rows), 1000))
    store.close()
    show(context, {"read": len(rows), "new": new}, f"{new:,} of {len(rows):,} outcomes were new.")


def _outcomes(file: Path) -> Any:
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise NotFoundError(f"it can't be read: {error.strerror}.", where=str(file)) from error
    for number, line in enumerate(lines, 1):
        try:
            found = orjson.loads(line)
            entity, positive = found["entity"], found["positive"]
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise InvalidRequestError(
                f"no outcome: {error}.",
                where=f"{file}:{number}",
                fix='Write {"entity": {"id": "42"}, "positive": true}.',
            ) from error
        if not isinstance(entity, dict) or not isinstance(positive, bool):
            raise InvalidRequestError("entity is no object, or positive no boolean.", where=f"{file}:{number}")
        yield {str(name): str(value) for name, value in entity.items()}, positive


def _serve(
    context: typer.Context, name: str, version: int, cluster: str | None, namespace: str | None, image_registry: str
) -> None:
    """Start the challenger's servers, here or on the cluster, and say where they are."""
    from fasttrack.registry import package
    from fasttrack.rollout.store import Rollouts
    from fasttrack.steps.keys import read_key
    from fasttrack.usecase import UseCase, canonical_text

    known = settings(context)
    with registry(context) as store:
        model, deployed = store.get(name, version), store.deployment(name)
    if deployed is None:
        raise NotFoundError("the use case is not served.", where=name, fix="Publish a first version: `fasttrack run`.")
    files = package.load_verified(model.uri, read_key(known, "verify_key"), model.digest)
    spec = UseCase.model_validate(deployed.usecase_document)
    note(f"starting the servers of {name} version {version}")
    if namespace is not None or cluster is not None:
        from fasttrack.kubeflow.cluster.client import connect
        from fasttrack.kubeflow.launchers.place import Place
        from fasttrack.kubeflow.launchers.publish import serve_beside

        place = Place(connect(cluster), namespace or NAMESPACE, image_registry)
        urls = serve_beside(place, spec, model, canonical_text(spec))
    else:
        from fasttrack.steps import here

        urls = here.serve_beside(options(context).home, model, canonical_text(spec))
    rollouts = Rollouts(known.require("postgres"))
    rollouts.offer(
        name, version, signature=orjson.loads(files["signature.json"]), usecase_document=deployed.usecase_document,
        **{f"{role}_url": urls[f"{role}_url"] for role in ("transformer", "predictor", "explainer")},
    )  # fmt: skip
    rollouts.close()


def _plan(**asked: Any) -> dict[str, Any]:
    """What was asked for, before anything is started for it."""
    from fasttrack.rollout.plan import Plan

    try:
        return Plan.model_validate(asked).model_dump()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        option = str(first["loc"][0]).removesuffix("_seconds") if first["loc"] else "mode"
        raise InvalidRequestError(f"{first['msg']}.", where=f"--{option}", fix="See --help.") from error


def _require_none(gateway: Gateway, usecase: str) -> None:
    """Before servers are started, which would take the place of a running rollout's.

    Raises:
        ConflictError: a rollout runs.
    """
    with suppress(NotFoundError):
        if (found := gateway.rollout(usecase))["status"] == "running":
            raise ConflictError(
                f"the rollout of version {found['challenger']} runs.", where=usecase,
                fix=f"End it: `fasttrack rollout abort {usecase} --why ...`.",
            )  # fmt: skip


def _gateway(context: typer.Context, usecase: str, token: str) -> Gateway:
    url = settings(context).require("gateway")
    return Gateway(url, token or mint(context, [f"{usecase}-admin"], "developer", "default", "12h"))


def _tell(context: typer.Context, gateway: Gateway, found: dict[str, Any], wait: bool) -> None:
    name, told = found["usecase"], ""
    try:
        while wait and found["status"] == "running":
            if (text := f"{found['percent']:g} %: {found['why'] or 'just started'}") != told:
                note(f"{name} version {found['challenger']} at {text}")
            told = text
            time.sleep(_FOLLOW_SECONDS)
            found = gateway.rollout(name)
    except KeyboardInterrupt:
        note("The rollout goes on without you; `fasttrack rollout status` shows it.")
        raise
    if found["status"] != "running":
        _settle(context, name, found["challenger"] if found["status"] == "promoted" else None)
    show(context, found, _text(found))


def _settle(context: typer.Context, usecase: str, winner: int | None) -> None:
    """Let the local platform stop the servers of the version that lost; on a cluster they wait to be deleted."""
    home = options(context).home
    if not (home / "platform.json").exists():
        return
    from fasttrack.local import control

    control.settle(home, usecase, winner)


def _text(found: dict[str, Any]) -> str:
    lines = [
        f"{found['usecase']}: version {found['challenger']} beside version {found['champion']}, "
        f"{found['plan']['mode']}, {found['status'].replace('_', ' ')}"
        + (f", {found['percent']:g} % of the keys" if found["status"] == "running" else ""),
    ]
    if found["why"]:
        lines.append(f"  {found['why']}")
    for arm in ("champion", "challenger"):
        counts = found["overall"][arm]
        lines.append(f"  {arm}: {counts['requests']:,} requests, {counts['failures']:,} failed")
    mirror = found["overall"]["mirror"]
    if mirror["requests"]:
        lines.append(f"  mirrored: {mirror['requests']:,}, {mirror['failures']:,} failed, "
                     f"{mirror['disagreements']:,} of {mirror['rows']:,} rows of another class")  # fmt: skip
    for metric, odds in found["odds"].items():
        worse, fine = (f"{math.exp(min(odds[side], 99)):.3g}" for side in ("worse", "no_worse"))
        lines.append(f"  {metric}: odds of {worse} to 1 that it is worse, {fine} to 1 that it is no worse")
    for event in found["events"]:
        lines.append(f"  {event['at'][:19]} {event['action'].replace('_', ' ')} by {event['who']}: {event['why']}")
    return "\n".join(lines)
