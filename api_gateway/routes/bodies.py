"""Reading of JSON request bodies and of what the ``/v1`` routes have in common in them."""

from __future__ import annotations

from typing import Any

from api_gateway.call import Call
from api_gateway.deployments import Served
from api_gateway.problems import refused
from api_gateway.strict_json import parse
from fasttrack.errors import InvalidRequestError


async def json_body(call: Call) -> Any:
    """The body of a JSON request.

    Raises:
        InvalidRequestError: another content type (415), too large (413), or not strict JSON (400).
    """
    check_encoding(call)
    kind, _, parameters = call.fields.get(b"content-type", "").partition(";")
    charset = parameters.strip().lower().removeprefix("charset=").strip('"')
    if kind.strip().lower() != "application/json" or charset not in ("", "utf-8"):
        raise refused(
            415, "the body is not declared as JSON.", where="header Content-Type", fix="Send application/json."
        )
    return parse(await call.read(call.parts.options.max_body_bytes), depth=call.parts.options.max_depth)


def check_encoding(call: Call) -> None:
    """Refuse compressed bodies: a small one may unpack to gigabytes.

    Raises:
        InvalidRequestError: the body is compressed (415).
    """
    if call.fields.get(b"content-encoding", "identity").lower() != "identity":
        raise refused(
            415, "compressed bodies are not accepted.", where="header Content-Encoding", fix="Send it as it is."
        )


def explanation_method(served: Served, asked: Any, field: str) -> str:
    """The explanation method to use: the one asked for, or the use case's first where any will do (True).

    Raises:
        InvalidRequestError: the use case doesn't offer it.
    """
    offered = served.usecase.serving.explanations
    if asked is True and offered:
        return offered[0]
    for method in offered:
        if asked == method:
            return method
    raise InvalidRequestError(
        f"{field} is not a method that use case {served.name!r} offers.",
        where=f"body.{field}",
        fix=f"Give one of: {', '.join(offered) or 'none'}.",
    )
