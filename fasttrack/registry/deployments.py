"""SQL of what is deployed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psycopg2.extensions import cursor as Cursor

from fasttrack.registry import versions
from fasttrack.registry.records import Deployment
from fasttrack.registry.values import jsonb, required

_CURRENT = """
SELECT d.usecase, d.version, v.digest, v.uri, d.signature, d.usecase_document,
       d.transformer_url, d.predictor_url, d.explainer_url, d.updated_at
FROM deployments d JOIN model_versions v ON v.name = d.usecase AND v.version = d.version
WHERE %(usecase)s IS NULL OR d.usecase = %(usecase)s ORDER BY d.usecase
"""
_DEPLOY = """
INSERT INTO deployments (usecase, version, signature, usecase_document, transformer_url, predictor_url, explainer_url)
VALUES (%s, %s, %s::jsonb, %s::jsonb, %s, %s, %s)
ON CONFLICT (usecase) DO UPDATE SET version = excluded.version, signature = excluded.signature,
    usecase_document = excluded.usecase_document, transformer_url = excluded.transformer_url,
    predictor_url = excluded.predictor_url, explainer_url = excluded.explainer_url, updated_at = clock_timestamp()
"""


def deploy(
    cursor: Cursor,
    usecase: str,
    version: int,
    signature: Mapping[str, Any],
    usecase_document: Mapping[str, Any],
    urls: tuple[str, str, str],
) -> Deployment:
    """Replace a use case's deployment; `urls` are the transformer's, predictor's and explainer's.

    Raises:
        NotFoundError: the model has no such version.
        InvalidRequestError: a URL is empty.
    """
    for url, what in zip(urls, ("transformer_url", "predictor_url", "explainer_url"), strict=True):
        required(url, what)
    versions.get(cursor, usecase, version)
    cursor.execute(_DEPLOY, (usecase, version, jsonb(signature), jsonb(usecase_document), *urls))
    cursor.execute("INSERT INTO deployment_changes (usecase, version) VALUES (%s, %s)", (usecase, version))
    return current(cursor, usecase)[0]


def undeploy(cursor: Cursor, usecase: str) -> bool:
    """Remove a use case's deployment; False if there was none."""
    cursor.execute("DELETE FROM deployments WHERE usecase = %s RETURNING 1", (usecase,))
    if cursor.fetchone() is None:
        return False
    cursor.execute("INSERT INTO deployment_changes (usecase) VALUES (%s)", (usecase,))
    return True


def current(cursor: Cursor, usecase: str | None) -> tuple[Deployment, ...]:
    """The deployment of a use case, if any; without one, all of them by name."""
    cursor.execute(_CURRENT, {"usecase": usecase})
    return tuple(Deployment(*row) for row in cursor.fetchall())
