"""The body of a webhook as events: one JSON object, or a list of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final, NoReturn

from api_gateway.problems import refused
from fasttrack.errors import InvalidRequestError, UnavailableError
from fasttrack.ingest.sources.message import Mapper, Message
from fasttrack.ingest.sources.source import Record

_DEEP: Final = "the JSON is nested too deep."
#: What a sender is to do that is told to wait.
LATER: Final = "Send it again later, with the same webhook-id."


def away() -> UnavailableError:
    """Events can't be taken in; why is for the log alone."""
    return UnavailableError("events can't be taken in now.", fix=LATER)


def records(id: str, body: bytes, most: int) -> list[Record]:
    """The records of a body, told apart by the webhook's id and, in a list, their places.

    Something else than an object in a list becomes a record that can't be read, so that the others aren't held up.

    Args:
        id: ``webhook-id``; it has no dot.
        body: as it came.
        most: how many there may be.

    Raises:
        InvalidRequestError: the body is not strict JSON in UTF-8, neither object nor list (400), or holds more (413).
    """
    document = _parsed(body)
    if isinstance(document, dict):
        return [Record(id, document)]
    if not isinstance(document, list):
        raise InvalidRequestError("the body is neither an object nor a list.", where="body", fix="Send events.")
    if len(document) > most:
        raise refused(413, f"the body holds more than {most} events.", where="body", fix="Send fewer at a time.")
    return [_record(f"{id}.{place}", item) for place, item in enumerate(document)]


def _record(identity: str, item: Any) -> Record:
    if isinstance(item, dict):
        return Record(identity, item)
    return Record(identity, None, json.dumps(item).encode())


def mapped(mapper: Mapper, found: Sequence[Record]) -> list[Message]:
    """The messages of records.

    Raises:
        InvalidRequestError: a value is nested too deep to be written.
    """
    try:
        return [mapper.message(record) for record in found]
    except RecursionError as error:
        raise InvalidRequestError(_DEEP, where="body", fix="Flatten it.") from error


def _parsed(body: bytes) -> Any:
    try:
        # Not orjson: it rounds whole numbers beyond 64 bits, and keeps the last of two equal keys without a word.
        return json.loads(body.decode(), parse_constant=_no_number, object_pairs_hook=_unique)
    except RecursionError as error:
        raise InvalidRequestError(_DEEP, where="body", fix="Flatten it.") from error
    except UnicodeDecodeError as error:
        raise InvalidRequestError("the body is not UTF-8.", where=f"body, byte {error.start}") from error
    except json.JSONDecodeError as error:
        where = f"body, line {error.lineno}, column {error.colno}"
        raise InvalidRequestError("the body is not JSON.", where=where, fix="Correct the JSON text.") from error
    except ValueError as error:
        raise InvalidRequestError(f"the body is not strict JSON: {error}.", where="body") from error


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON value")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is given twice")
    return found
