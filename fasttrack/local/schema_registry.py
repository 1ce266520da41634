"""A schema registry with the REST interface of Confluent's, over Kafka: ``python -m fasttrack.local.schema_registry``.

Avro and JSON Schema; subjects, versions, ids, compatibility, configuration; soft and permanent deletion. Not there:
Protobuf, schema references, other modes than READWRITE, contexts.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from fasttrack.errors import UnavailableError
from fasttrack.local import compatibility
from fasttrack.local.part import HOST, Part
from fasttrack.local.schema_store import SchemaStore, Version

_STORE = web.AppKey("store", SchemaStore)
_CONTENT_TYPE = "application/vnd.schemaregistry.v1+json"
_WAIT_FOR_KAFKA_SECONDS = 120.0


class Refusal(Exception):
    """An answer other than 200: HTTP status, Confluent's error code, text."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.status = code if code < 1000 else code // 100


def prepare(port: int, kafka: str) -> Part:
    """Say how to run the registry.

    Args:
        port: where it listens.
        kafka: the broker's address; the registry waits for it.
    """
    argv = (sys.executable, "-m", "fasttrack.local.schema_registry", "--port", str(port), "--kafka", kafka)
    return Part("schema_registry", argv, ready=lambda: answers(port), ports={"schema_registry": port}, timeout=150.0)


def answers(port: int) -> bool:
    """Whether a registry on `port` lists its subjects."""
    with urllib.request.urlopen(f"http://{HOST}:{port}/subjects", timeout=2.0) as response:
        return bool(response.status == 200)


def application(store: SchemaStore) -> web.Application:
    """The HTTP application over a loaded store."""
    app = web.Application(middlewares=[_answer], client_max_size=2**20)
    app[_STORE] = store
    app.add_routes([
        web.get("/", _root), web.get("/subjects", _subjects), web.get("/schemas/types", _types),
        web.get("/schemas/ids/{id}", _by_id), web.get("/schemas/ids/{id}/schema", _text_by_id),
        web.get("/schemas/ids/{id}/versions", _versions_by_id),
        web.post("/subjects/{subject}", _look_up), web.delete("/subjects/{subject}", _delete_subject),
        web.get("/subjects/{subject}/versions", _versions), web.post("/subjects/{subject}/versions", _register),
        web.get("/subjects/{subject}/versions/{version}", _version),
        web.get("/subjects/{subject}/versions/{version}/schema", _text),
        web.delete("/subjects/{subject}/versions/{version}", _delete_version),
        web.post("/compatibility/subjects/{subject}/versions/{version}", _compatible),
        web.post("/compatibility/subjects/{subject}/versions", _compatible),
        web.get("/config", _config), web.put("/config", _set_config),
        web.get("/config/{subject}", _config), web.put("/config/{subject}", _set_config),
        web.delete("/config/{subject}", _clear_config), web.get("/mode", _mode), web.get("/mode/{subject}", _mode),
    ])  # fmt: skip
    return app


@web.middleware
async def _answer(request: web.Request, handler: Callable[[web.Request], Awaitable[Any]]) -> web.StreamResponse:
    try:
        body, status = await handler(request), 200
    except Refusal as refusal:
        body, status = {"error_code": refusal.code, "message": str(refusal)}, refusal.status
    except UnavailableError as error:
        body, status = {"error_code": 50002, "message": str(error)}, 500
    except web.HTTPException as error:
        body, status = {"error_code": error.status, "message": error.reason}, error.status
    return web.json_response(body, status=status, content_type=_CONTENT_TYPE)


# ---- what a request names


def _subject(request: web.Request) -> str:
    return request.match_info["subject"]


def _flag(request: web.Request, name: str) -> bool:
    return request.query.get(name, "false").lower() == "true"


async def _body(request: web.Request) -> dict[str, Any]:
    try:
        found = await request.json()
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise Refusal(42201, f"the body is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise Refusal(42201, "the body is no JSON object")
    return found


async def _schema(request: web.Request) -> tuple[str, str]:
    """The kind and canonical text of the schema in the body."""
    body = await _body(request)
    kind = str(body.get("schemaType") or "AVRO").upper()
    if body.get("references"):
        raise Refusal(42201, "schema references are not supported by this local registry")
    try:
        return kind, compatibility.canonical(kind, str(body.get("schema", "")))
    except ValueError as error:
        raise Refusal(42201, f"Invalid schema: {error}") from error


def _known(request: web.Request, deleted: bool | None = None) -> list[Version]:
    subject = _subject(request)
    found = request.app[_STORE].versions(subject, _flag(request, "deleted") if deleted is None else deleted)
    if not found:
        raise Refusal(40401, f"Subject '{subject}' not found.")
    return found


def _numbered(request: web.Request, versions: list[Version]) -> Version:
    text = request.match_info.get("version", "latest")
    if text in ("latest", "-1"):
        return versions[-1]
    if not text.isdigit() or not 0 < int(text) < 2**31:
        raise Refusal(42202, f"The specified version '{text}' is not a valid version id.")
    found = next((v for v in versions if v.version == int(text)), None)
    if found is None:
        raise Refusal(40402, f"Version {text} not found.")
    return found


def _with_id(request: web.Request) -> list[Version]:
    text = request.match_info["id"]
    found = request.app[_STORE].by_id(int(text)) if text.isdigit() else []
    if not found:
        raise Refusal(40403, f"Schema {text} not found")
    return found


# ---- routes


async def _root(request: web.Request) -> Any:
    return {}


async def _types(request: web.Request) -> Any:
    return list(compatibility.TYPES)


async def _mode(request: web.Request) -> Any:
    return {"mode": "READWRITE"}  # the only one


async def _subjects(request: web.Request) -> Any:
    store, deleted = request.app[_STORE], _flag(request, "deleted")
    prefix = request.query.get("subjectPrefix", "")
    return sorted(name for name in store.subjects if name.startswith(prefix) and store.versions(name, deleted))


async def _by_id(request: web.Request) -> Any:
    found = _with_id(request)[0].to_json()
    return {name: found[name] for name in ("schema", "schemaType", "references") if name in found}


async def _text_by_id(request: web.Request) -> Any:
    return json.loads(_with_id(request)[0].text)


async def _versions_by_id(request: web.Request) -> Any:
    return [{"subject": v.subject, "version": v.version} for v in _with_id(request) if not v.deleted]


async def _versions(request: web.Request) -> Any:
    return [v.version for v in _known(request)]


async def _version(request: web.Request) -> Any:
    return _numbered(request, _known(request)).to_json()


async def _text(request: web.Request) -> Any:
    return json.loads(_numbered(request, _known(request)).text)


async def _look_up(request: web.Request) -> Any:
    schema = await _schema(request)
    found = next((v for v in reversed(_known(request)) if (v.kind, v.text) == schema), None)
    if found is None:
        raise Refusal(40403, "Schema not found")
    return found.to_json()


async def _register(request: web.Request) -> Any:
    kind, text = await _schema(request)
    store, subject = request.app[_STORE], _subject(request)
    with store.lock:
        versions = store.versions(subject)
        same = next((v for v in reversed(versions) if (v.kind, v.text) == (kind, text)), None)
        if same is None:
            if why := _problems(store, subject, kind, text, versions):
                raise Refusal(409, "Schema being registered is incompatible with an earlier schema: " + "; ".join(why))
            same = store.add(subject, kind, text, [])
    return {"id": same.id}


def _problems(store: SchemaStore, subject: str, kind: str, text: str, versions: list[Version]) -> list[str]:
    level = store.level(subject)
    if level != "NONE" and any(v.kind != kind for v in versions):
        return [f"the subject holds {versions[-1].kind} schemas, this is {kind}"]
    return compatibility.problems(level, kind, text, [v.text for v in versions])


async def _compatible(request: web.Request) -> Any:
    kind, text = await _schema(request)
    versions = _known(request)
    compared = [_numbered(request, versions)] if "version" in request.match_info else versions
    why = _problems(request.app[_STORE], _subject(request), kind, text, compared)
    return {"is_compatible": not why} | ({"messages": why} if why and _flag(request, "verbose") else {})


async def _delete_version(request: web.Request) -> Any:
    permanent = _flag(request, "permanent")
    found = _numbered(request, _known(request, deleted=permanent))
    if permanent and not found.deleted:
        raise Refusal(40407, f"Version {found.version} was not deleted first before being permanently deleted")
    request.app[_STORE].delete(found, permanent)
    return found.version


async def _delete_subject(request: web.Request) -> Any:
    permanent = _flag(request, "permanent")
    versions = _known(request, deleted=permanent)
    if permanent and any(not v.deleted for v in versions):
        raise Refusal(40405, f"Subject '{_subject(request)}' was not deleted first before being permanently deleted")
    for found in versions:
        request.app[_STORE].delete(found, permanent)
    return [v.version for v in versions]


async def _config(request: web.Request) -> Any:
    store, subject = request.app[_STORE], request.match_info.get("subject")
    if subject is None:
        return {"compatibilityLevel": store.levels.get(None, "BACKWARD")}
    if subject not in store.levels and not _flag(request, "defaultToGlobal"):
        raise Refusal(40408, f"Subject '{subject}' does not have subject-level compatibility configured")
    return {"compatibilityLevel": store.level(subject)}


async def _set_config(request: web.Request) -> Any:
    level = str((await _body(request)).get("compatibility", "")).upper()
    if level not in compatibility.LEVELS:
        raise Refusal(42203, f"Invalid compatibility level; it is one of {', '.join(compatibility.LEVELS)}")
    request.app[_STORE].set_level(request.match_info.get("subject"), level)
    return {"compatibility": level}


async def _clear_config(request: web.Request) -> Any:
    store, subject = request.app[_STORE], _subject(request)
    level = store.level(subject)
    store.set_level(subject, None)
    return {"compatibilityLevel": level}


def main() -> None:
    """Wait for the broker, load the schemas, serve."""
    parser = argparse.ArgumentParser(description="Schema registry of the local platform")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--kafka", required=True)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    store = SchemaStore(options.kafka)
    deadline = time.monotonic() + _WAIT_FOR_KAFKA_SECONDS
    while True:
        try:
            store.load()
            break
        except UnavailableError:
            if time.monotonic() > deadline:
                raise
    web.run_app(application(store), host=HOST, port=options.port, access_log=None, print=None, handle_signals=True)


if __name__ == "__main__":
    main()
