"""What makes Python values of a table's texts, by the types of its columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from psycopg2.extensions import connection as Connection

from fasttrack.ingest.sources.postgres_values import Convert, converter

_BPCHAR, _INET = 1042, 869
# A domain is what it stands on, also where that is another domain.
_TYPES = """
WITH RECURSIVE of(oid, base) AS (
  SELECT oid, oid FROM pg_type WHERE oid = ANY(%s::oid[])
  UNION ALL SELECT of.oid, t.typbasetype FROM of JOIN pg_type t ON t.oid = of.base WHERE t.typbasetype <> 0)
SELECT of.oid, t.oid, CASE WHEN t.typcategory = 'A' THEN t.typelem ELSE 0 END
FROM of JOIN pg_type t ON t.oid = of.base WHERE t.typbasetype = 0
"""


def selected(connection: Connection, types: Iterable[int]) -> Mapping[int, Convert]:
    """By a type's oid, what makes a value of its text in a query; a type that is gone is left out."""
    return {oid: converter(base, element) for oid, base, element in _bases(connection, types)}


def replicated(connection: Connection, types: Iterable[int]) -> Mapping[int, Convert]:
    """As `selected`, of its text in the replication stream, which two types write otherwise than a cast to text."""
    return {oid: _as_selected(base, converter(base, element)) for oid, base, element in _bases(connection, types)}


def _bases(connection: Connection, types: Iterable[int]) -> list[tuple[int, int, int]]:
    with connection.cursor() as cursor:
        cursor.execute(_TYPES, (list(types),))
        return cursor.fetchall()


def _as_selected(base: int, convert: Convert) -> Convert:
    if base == _BPCHAR:
        # Blanks at the end mean nothing: they fill a char(n) up.
        return lambda text: convert(text.rstrip(" "))
    if base == _INET:
        return lambda text: convert(text if "/" in text else f"{text}/{128 if ':' in text else 32}")
    return convert
