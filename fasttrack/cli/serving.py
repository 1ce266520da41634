"""`fasttrack predict | explain | token`: call the gateway as a client would."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from fasttrack.cli.output import options, settings, show
from fasttrack.client import Gateway
from fasttrack.errors import InvalidRequestError
from fasttrack.usecase.durations import parse_duration

UseCaseName = Annotated[str, typer.Argument(help="Name of the use case.")]
Pairs = Annotated[list[str], typer.Argument(help="What to predict for: entity keys as key=value pairs.")]
Token = Annotated[str, typer.Option(help="A bearer token; default: one of the local issuer.", envvar="FASTTRACK_TOKEN")]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (predict, explain, token):
        app.command()(command)


def predict(
    context: typer.Context,
    usecase: UseCaseName,
    entity: Pairs,
    explain: Annotated[bool, typer.Option("--explain", help="Also say which features drove it.")] = False,
    features: Annotated[Path | None, typer.Option(help="JSON file with raw features instead of an entity.")] = None,
    token: Token = "",
) -> None:
    """Predict for one entity (`fasttrack predict NAME key=value`) through the gateway."""
    body: dict[str, Any] = {"explain": explain, **_subject(entity, features)}
    show(context, _gateway(context, usecase, token).predict(usecase, body))


def explain(
    context: typer.Context,
    usecase: UseCaseName,
    entity: Pairs,
    method: Annotated[str, typer.Option(help="shap, lime, amortized or permutation, as the use case offers.")] = "shap",
    token: Token = "",
) -> None:
    """Explain the prediction for one entity, feature by feature."""
    body = {"method": method, **_subject(entity, None)}
    show(context, _gateway(context, usecase, token).explain(usecase, body))


def token(
    context: typer.Context,
    role: Annotated[list[str], typer.Option(help="A role that the token carries; may be repeated.")],
    subject: Annotated[str, typer.Option(help="Whom the token is for.")] = "developer",
    tenant: Annotated[str, typer.Option(help="The tenant.")] = "default",
    ttl: Annotated[str, typer.Option(help="How long it is good for, such as 1h.")] = "1h",
) -> None:
    """Mint a token of the local development issuer."""
    minted = mint(context, role, subject, tenant, ttl)
    show(context, {"token": minted}, minted)


def mint(context: typer.Context, roles: list[str], subject: str, tenant: str, ttl: str) -> str:
    """A token of the local development issuer, good for `ttl` (such as ``1h``)."""
    from fasttrack.local.issuer import mint

    try:
        lifetime: timedelta = parse_duration(ttl)
    except ValueError as error:
        raise InvalidRequestError(str(error), where="--ttl") from error
    audience = settings(context).audience
    return mint(options(context).home, subject=subject, roles=roles, tenant=tenant, ttl=lifetime, audience=audience)


def _gateway(context: typer.Context, usecase: str, token: str) -> Gateway:
    url = settings(context).require("gateway")
    return Gateway(url, token or mint(context, [f"{usecase}-predictor"], "developer", "default", "1h"))


def _subject(pairs: list[str], features: Path | None) -> dict[str, Any]:
    """What a request is about: ``entity`` from key=value words, or ``features`` from a file."""
    if features is not None:
        try:
            return {"features": orjson.loads(features.read_bytes())}
        except (OSError, orjson.JSONDecodeError) as error:
            raise InvalidRequestError(f"can't be read as JSON: {error}.", where=str(features)) from error
    split = [pair.partition("=") for pair in pairs]
    if wrong := [key for key, equals, _ in split if not equals]:
        raise InvalidRequestError(f"{wrong[0]!r} is not a key=value pair.", fix="Write, for instance, id=42.")
    return {"entity": {key: value for key, _, value in split}}
