"""The database's schema, as numbered SQL files that are applied in order, once each."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib import resources
from typing import Final

from psycopg2.extensions import cursor as Cursor

from fasttrack.errors import ConfigurationError, IntegrityError

#: PostgreSQL advisory locks are numbers: this one is ours ("FTRK" in ASCII).
LOCK: Final = 0x4654524B
_FILE: Final = re.compile(r"(\d{4})_(\w+)\.sql")


@dataclass(frozen=True)
class Migration:
    """One SQL file: its number, its file name, its text and the text's SHA-256."""

    number: int
    name: str
    sql: str
    sha256: str


def available() -> tuple[Migration, ...]:
    """The migrations that this version brings, in order."""
    found = []
    for file in resources.files(__name__).iterdir():
        if match := _FILE.fullmatch(file.name):
            sql = file.read_text(encoding="utf-8")
            found.append(Migration(int(match[1]), file.name, sql, hashlib.sha256(sql.encode()).hexdigest()))
    return tuple(sorted(found, key=lambda migration: migration.number))


def apply(cursor: Cursor, migrations: tuple[Migration, ...]) -> tuple[str, ...]:
    """Apply what is new, in the caller's transaction, and return the names; one process at a time gets in.

    Raises:
        IntegrityError: a migration that was applied has another text now.
        ConfigurationError: the database is ahead of this version.
    """
    # The lock goes with the transaction, so a process that dies here can't keep the others out.
    cursor.execute("SET LOCAL lock_timeout = '120s'")
    cursor.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
    cursor.execute(
        "CREATE TABLE IF NOT EXISTS schema_migrations (number integer PRIMARY KEY, name text NOT NULL,"
        " sha256 text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
    )
    cursor.execute("SELECT number, name, sha256 FROM schema_migrations ORDER BY number")
    done = {number: (name, sha256) for number, name, sha256 in cursor.fetchall()}
    _check(done, migrations)
    new = tuple(migration for migration in migrations if migration.number not in done)
    for migration in new:
        cursor.execute(migration.sql)
        cursor.execute(
            "INSERT INTO schema_migrations (number, name, sha256) VALUES (%s, %s, %s)",
            (migration.number, migration.name, migration.sha256),
        )
    return tuple(migration.name for migration in new)


def _check(done: dict[int, tuple[str, str]], migrations: tuple[Migration, ...]) -> None:
    known = {migration.number: migration for migration in migrations}
    for number, (name, sha256) in done.items():
        if number not in known:
            raise ConfigurationError(
                f"the database has migration {name}, which this version does not know.",
                where="schema_migrations",
                fix="Upgrade FastTrack, or use another database.",
            )
        if known[number].sha256 != sha256:
            raise IntegrityError(
                f"migration {name} was changed after it had been applied.",
                where=f"fasttrack/registry/migrations/{known[number].name}",
                fix="Restore that file and put the change into a new migration.",
            )
