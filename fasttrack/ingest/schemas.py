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
from fasttrack.ingest.contracts import json_schema
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase

_ANSWER_SECONDS = 10.0
_PATIENCE_SECONDS = 30.0
_RETRY_SECONDS = 0.2
_CONTENT_TYPE = "application/vnd.schemaregistry.v1+json"


def register(settings: Settings, usecase: UseCase, stream: str) -> int:
    """Register a stream's contract under ``<topic>-value``; registering the same again gives the same id.

    Raises:
        ConflictError: the registry finds the schema incompatible with the ones before.
        UnavailableError: the registry does not answer.
    """
    schema = json_schema(usecase.streams[stream], usecase.topic(stream))
    body = orjson.dumps({"schemaType": "JSON", "schema": json.dumps(schema, sort_keys=True)})
    return int(_request(settings, f"/subjects/{_subject(usecase, stream)}/versions", body)["id"])


def known(settings: Settings, usecase: UseCase, stream: str) -> frozenset[int]:
    """The ids of every version of a stream's schema; empty if none was registered.

    Raises:
        UnavailableError: the registry does not answer.
    """
    subject = _subject(usecase, stream)
    versions = _request(settings, f"/subjects/{subject}/versions", missing=[])
    return frozenset(int(_request(settings, f"/subjects/{subject}/versions/{v}")["id"]) for v in versions)


def _subject(usecase: UseCase, stream: str) -> str:
    return urllib.parse.quote(f"{usecase.topic(stream)}-value", safe="")


def _request(settings: Settings, path: str, body: bytes | None = None, missing: Any = None) -> Any:
    base = settings.require("schema_registry").rstrip("/")
    if not base.startswith(("http://", "https://")):
        raise ConfigurationError(
            "is not an HTTP address.", where=f"FASTTRACK_SCHEMA_REGISTRY={base}", fix="Give a URL."
        )
    headers = {"Content-Type": _CONTENT_TYPE, "Accept": _CONTENT_TYPE}
    request = urllib.request.Request(base + path, body, headers)  # noqa: S310 - checked above
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
                    f"the schema registry refuses the contract: {text}", where=base + path,
                    fix="A contract evolves by adding nullable fields; anything else needs a new topic.",
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
