"""`fasttrack deadletters`: messages that broke their contract, searched, shown and sent again."""

from __future__ import annotations

import os
import string
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fasttrack.cli.output import default_usecase, options, settings, show, table
from fasttrack.cli.parameters import UseCaseFile
from fasttrack.errors import ConfigurationError
from fasttrack.usecase import load

if TYPE_CHECKING:
    from fasttrack.ingest.deadletters import Wanted

group = typer.Typer(no_args_is_help=True, help="Search the messages that broke their contract, and send them again.")

_LARGEST_PARTITION = 2**31 - 1
_MOST = 1_000_000
_BYTES_A_LINE = 16

Stream = Annotated[str | None, typer.Option(help="Only of this stream.")]
Reason = Annotated[str | None, typer.Option(help="Only refused for this reason, such as 'wrong type'.")]
Since = Annotated[str | None, typer.Option(help="Only drained at or after this moment (ISO 8601, UTC).")]
Until = Annotated[str | None, typer.Option(help="Only drained before this moment (ISO 8601, UTC).")]
Partition = Annotated[int | None, typer.Option(help="Only of this partition.", min=0, max=_LARGEST_PARTITION)]
OffsetRange = Annotated[str | None, typer.Option(metavar="FIRST-LAST", help="Only at these offsets.")]
Contains = Annotated[str | None, typer.Option(metavar="TEXT", help="Only with this text among their bytes.")]


def register(app: typer.Typer) -> None:
    """Add the group to the command line."""
    app.add_typer(group, name="deadletters")


@group.command("list")
def list_letters(
    context: typer.Context,
    usecase: UseCaseFile = None,
    stream: Stream = None,
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    partition: Partition = None,
    offset_range: OffsetRange = None,
    contains: Contains = None,
    by: Annotated[str, typer.Option(help="Group by reason, stream, detail, partition or contract_version.")] = "reason",
    limit: Annotated[
        int, typer.Option(help="How many of the newest are listed; 0: only groups.", min=0, max=_MOST)
    ] = 20,
) -> None:
    """Count dead letters in groups, and list the newest."""
    from fasttrack.ingest.listing import search

    wanted = _wanted(stream, reason, since, until, partition, offset_range, contains)
    found = search(load(usecase or default_usecase()), settings(context), wanted, by, limit)
    columns = list(dict.fromkeys(["stream", by, "count", "replayed", "first", "last"]))
    title = f"{found.matched:,} dead letters"
    show(context, asdict(found), table(title, columns, [_cells(row, columns) for row in found.groups]))
    if found.letters and not options(context).json:
        columns = ["topic", "partition", "offset", "reason", "detail", "contract_version", "ingested_at", "replayed_at"]
        show(context, None, table("\nthe newest", columns, [_cells(row, columns) for row in found.letters]))


@group.command("show")
def show_letter(
    context: typer.Context,
    place: Annotated[str, typer.Argument(metavar="PLACE", help="TOPIC/PARTITION/OFFSET or STREAM:PARTITION:OFFSET.")],
    usecase: UseCaseFile = None,
    raw: Annotated[bool, typer.Option("--raw", help="Write the message's bytes to stdout, and nothing else.")] = False,
) -> None:
    """Show one dead letter with its bytes, and what the present contract makes of it."""
    from fasttrack.ingest.deadletters import Judge, letter, parse_place, replayed

    case, places = load(usecase or default_usecase()), settings(context)
    found = letter(case, places, parse_place(place))
    if raw:
        sys.stdout.buffer.write(found.value or b"")
        sys.stdout.buffer.flush()
        return
    judge = Judge(case, places)
    verdict = judge.refused(found.stream, [found.value], [found.key]).get(0)
    again = replayed(case, places, at=found.place).to_pylist()
    told = asdict(found) | {
        "key": _text(found.key),
        "value": _text(found.value),
        "value_hex": None if found.value is None else found.value.hex(),
        "accepted_now": verdict is None,
        "refused_now": None if verdict is None else asdict(verdict),
        "contract_version_now": judge.version(found.stream),
        "replayed": [{k: row[k] for k in ("replayed_at", "sent_partition", "sent_offset", "fixed")} for row in again],
    }
    body = "(no value)" if found.value is None else _text(found.value) or hex_dump(found.value)
    lines = [f"{name}: {value}" for name, value in told.items() if name not in ("value", "value_hex", "refused_now")]
    why = [] if verdict is None else [f"refused_now: {verdict.reason}: {verdict.detail}"]
    # Not through rich: what stands in a message is nobody's markup.
    show(context, told) if options(context).json else print("\n".join([*lines, *why, "", body]))


@group.command("replay")
def replay_letters(
    context: typer.Context,
    usecase: UseCaseFile = None,
    stream: Stream = None,
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    partition: Partition = None,
    offset_range: OffsetRange = None,
    contains: Contains = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be sent.")] = False,
    fix: Annotated[str | None, typer.Option(metavar="FILE.py:FUNCTION", help="Mends what is still refused.")] = None,
) -> None:
    """Send those that the present contract accepts, or the fix mends, to their topics again; each once."""
    from fasttrack.ingest.fix import Fix
    from fasttrack.ingest.resend import resend

    wanted = _wanted(stream, reason, since, until, partition, offset_range, contains)
    mending = None if fix is None else Fix(fix)
    case = load(usecase or default_usecase())
    report = resend(case, settings(context), wanted, fix=mending, dry_run=dry_run)
    would = "would be sent" if dry_run else "sent"
    title = (
        f"{report.matched:,} dead letters: {report.sent:,} {would} ({report.mended:,} mended), "
        f"{report.before:,} replayed before, {sum(row['count'] for row in report.refused):,} still refused"
    )
    columns = ["stream", "reason", "count", "place", "detail"]
    rows = [_cells(row, columns) for row in report.refused]
    show(context, asdict(report), table(title, columns, rows) if rows else title)


def _wanted(
    stream: str | None,
    reason: str | None,
    since: str | None,
    until: str | None,
    partition: int | None,
    offsets: str | None,
    contains: str | None,
) -> Wanted:
    from fasttrack.ingest.deadletters import Wanted

    moments = _moment(since, "--since"), _moment(until, "--until")
    # The bytes that were typed, whatever the terminal takes them for.
    typed = None if contains is None else os.fsencode(contains)
    return Wanted(stream, reason, partition, _span(offsets), *moments, typed)


def _span(text: str | None) -> tuple[int, int] | None:
    from fasttrack.ingest.numbers import LARGEST_OFFSET, whole

    if text is None:
        return None
    first, last = (whole(part, LARGEST_OFFSET) for part in text.partition("-")[::2])
    if first is None or last is None or first > last:
        raise ConfigurationError(f"{text!r} is no range.", where="--offset-range", fix="Write FIRST-LAST.")
    return first, last


def _moment(text: str | None, where: str) -> datetime | None:
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
        return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise ConfigurationError(f"{text!r} is no moment.", where=where, fix="Write 2013-01-31T10:00:00Z.") from error


def _cells(row: dict[str, Any], columns: list[str]) -> list[Any]:
    return [_cell(row[column]) for column in columns]


def _cell(value: Any) -> Any:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    return value.replace("[", "\\[") if isinstance(value, str) else value


def _text(value: bytes | None) -> str | None:
    """Bytes as text, if they are some; the schema registry's header is left out."""
    if value is None:
        return None
    body = value[5:] if len(value) > 5 and value[0] == 0 else value
    try:
        found = body.decode()
    except UnicodeDecodeError:
        return None
    return found if all(character.isprintable() or character in string.whitespace for character in found) else None


def hex_dump(value: bytes) -> str:
    """Bytes as lines of offset, hexadecimal digits and characters."""
    lines = []
    for low in range(0, len(value), _BYTES_A_LINE):
        part = value[low : low + _BYTES_A_LINE]
        shown = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        lines.append(f"{low:08x}  {part.hex(' '):<{3 * _BYTES_A_LINE}} {shown}")
    return "\n".join(lines)
