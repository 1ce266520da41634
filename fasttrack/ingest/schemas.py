"""The schema registry (Confluent's REST interface): which schema ids a stream's messages may carry."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

import orjson

from fasttrack.errors import ConfigurationError, ConflictError, UnavailableError
from fasttrack.ingest.avro import avro_schema, written_fields
from fasttrack.ingest.contracts import json_schema
from fasttrack.ingest.rowcheck import Rejected
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase

_ANSWER_SECONDS = 10.0
_PATIENCE_SECONDS = 30.0
_RETRY_SECONDS = 0.2
_CONTENT_TYPE = "application/vnd.schemaregistry.v1+json"
# Messages of all versions are read together, so each new version has to fit all of those before.
_LEVELS = ("BACKWARD_TRANSITIVE", "FULL_TRANSITIVE")
_EVOLUTION = "A contract evolves by adding nullable fields; anything else needs a new topic."


def register(settings: Settings, usecase: UseCase, stream: str) -> int:
    """Register a stream's contract under ``<topic>-value``; registering the same again gives the same id.

    The subject's compatibility level is set if it is a weaker one, so that a registry whose default is NONE refuses
    an incompatible version too.

    Raises:
        ConflictError: the registry finds the schema incompatible with the ones before.
        UnavailableError: the registry does not answer.
    """
    contract = usecase.streams[stream]
    if contract.encoding == "avro":
        schema = avro_schema(contract)
        _require_readable(settings, usecase, stream, schema)
        text = json.dumps(schema)
    else:
        text = json.dumps(json_schema(contract, usecase.topic(stream)), sort_keys=True)
    _require_compatibility(settings, _subject(usecase, stream))
    body = orjson.dumps({"schemaType": contract.encoding.upper(), "schema": text})
    return int(_request(settings, f"/subjects/{_subject(usecase, stream)}/versions", body)["id"])


def _require_compatibility(settings: Settings, subject: str) -> None:
    path = f"/config/{subject}"
    if _request(settings, path, missing={}).get("compatibilityLevel") not in _LEVELS:
        _request(settings, path, orjson.dumps({"compatibility": _LEVELS[0]}), method="PUT")


def _require_readable(settings: Settings, usecase: UseCase, stream: str, schema: dict[str, Any]) -> None:
    """Refuse what Avro's rules let pass and the drain doesn't: a field that is gone, a whole number become a moment."""
    texts = known(settings, usecase, stream).values()
    if any(json.loads(text) == schema for text in texts):
        return
    for text in texts:
        try:
            written_fields(usecase.streams[stream], text)
        except Rejected as error:
            raise ConflictError(
                f"the contract can't read what its registered versions wrote: {error.rejection.detail}.",
                where=f"stream {stream}", fix=_EVOLUTION,
            ) from error  # fmt: skip


def known(settings: Settings, usecase: UseCase, stream: str) -> dict[int, str]:
    """The text of every version of a stream's schema by its id; empty if none was registered.

    Raises:
        UnavailableError: the registry does not answer.
    """
    subject = _subject(usecase, stream)
    versions = _request(settings, f"/subjects/{subject}/versions", missing=[])
    found = (_request(settings, f"/subjects/{subject}/versions/{v}") for v in versions)
    return {int(version["id"]): str(version["schema"]) for version in found}


def _subject(usecase: UseCase, stream: str) -> str:
    return urllib.parse.quote(f"{usecase.topic(stream)}-value", safe="")


def _request(
    settings: Settings, path: str, body: bytes | None = None, missing: Any = None, method: str | None = None
) -> Any:
    base = settings.require("schema_registry").rstrip("/")
    if not base.startswith(("http://", "https://")):
        raise ConfigurationError(
            "is not an HTTP address.", where=f"FASTTRACK_SCHEMA_REGISTRY={base}", fix="Give a URL."
        )
    headers = {"Content-Type": _CONTENT_TYPE, "Accept": _CONTENT_TYPE}
    request = urllib.request.Request(base + path, body, headers, method=method)  # noqa: S310 - checked above
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            with urllib.request.urlopen(request, timeout=_ANSWER_SECONDS) as response:  # noqa: S310
                return orjson.loads(response.read())
        except urllib.error.HTTPError as error:
            with error:
                text = error.read().decode(errors="replace")
            if error.code == 404 and missing is not None:
                return missing
            if error.code in (409, 422):
                raise ConflictError(
                    f"the schema registry refuses the contract: {_message(text)}.", where=base + path,
                    fix=_EVOLUTION,
                ) from error  # fmt: skip
            cause: Exception = error
        except (OSError, orjson.JSONDecodeError) as error:
            cause = error
        if time.monotonic() > deadline:
            raise UnavailableError(
                f"the schema registry does not answer ({cause}).", where=base,
                fix="Check that it runs (`fasttrack status`) and start again.",
            ) from cause  # fmt: skip
        time.sleep(_RETRY_SECONDS)


def _message(text: str) -> str:
    """What a refusal says: the message in its JSON, or all of it where there is none."""
    try:
        return str(orjson.loads(text)["message"]).removesuffix(".")
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return text
