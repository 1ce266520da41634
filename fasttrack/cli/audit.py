"""`fasttrack audit`: the gateway's audit log, made tamper-evident by signed checkpoints."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from fasttrack.cli.models import registry
from fasttrack.cli.output import settings, show
from fasttrack.errors import ConfigurationError, IntegrityError, NotFoundError
from fasttrack.progress import note

group = typer.Typer(
    no_args_is_help=True,
    help="Sign checkpoints of the audit log, and prove that no row was changed, removed or added since.",
)


def register(app: typer.Typer) -> None:
    """Add the group to the command line."""
    app.add_typer(group, name="audit")


@group.command("seal")
def seal(
    context: typer.Context,
    every: Annotated[float | None, typer.Option(min=1, help="Go on, looking again after so many seconds.")] = None,
) -> None:
    """Put the rows that wait into the log's tree and sign its root with FASTTRACK_AUDIT_KEY.

    Until then a row can be changed without a trace, so do it often: `--every 60` beside the gateway, or a CronJob.
    Any number may run at once.
    """
    from fasttrack.registry.keys import load_private
    from fasttrack.steps.keys import read_key

    key = load_private(read_key(settings(context), "audit_key"), "FASTTRACK_AUDIT_KEY")
    with registry(context) as store:
        while True:
            made = store.seal_audit(key)
            words = "no row waits" if made is None else f"sealed: {made.size:,} rows, root {made.root.hex()[:16]}"
            if every is None:
                return show(context, {"size": made.size, "root": made.root.hex()} if made else None, words)
            if made is not None:
                note(words)
            time.sleep(every)


@group.command("checkpoint")
def checkpoint(context: typer.Context) -> None:
    """Print the newest checkpoint, a signed text, to be kept where nobody who can write to the database can.

    `fasttrack audit verify --against FILE` then finds even what was taken off the log's end.
    """
    with registry(context) as store:
        text = store.audit_note()
    if text is None:
        raise NotFoundError("the audit log has no checkpoint yet.", fix="Run `fasttrack audit seal`.")
    print(text, end="")


@group.command("verify")
def verify(
    context: typer.Context,
    against: Annotated[
        list[Path] | None, typer.Option(help="A checkpoint that was kept elsewhere; may repeat.")
    ] = None,
) -> None:
    """Compute the log's tree anew and compare it with every signed checkpoint; exit code 4 names what was touched."""
    from fasttrack.registry.keys import load_public
    from fasttrack.steps.keys import read_key

    key = load_public(read_key(settings(context), "audit_verify_key"), "FASTTRACK_AUDIT_VERIFY_KEY")
    kept = [_read(path) for path in against or ()]
    with registry(context) as store:
        found = store.verify_audit(key, kept)
    newest = f"{found.newest:%Y-%m-%d %H:%M:%S} UTC" if found.newest else "never"
    words = (
        f"{found.sealed:,} rows sealed by {found.checkpoints:,} checkpoints (newest: {newest}), {found.unsealed:,} wait"
    )
    show(context, asdict(found), words)
    if found.faults:
        raise IntegrityError(
            f"the audit log was tampered with: {'; '.join(found.faults)}.", where="audit_log",
            fix="Compare with a backup of the database; the rows named first tell when.",
        )  # fmt: skip


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigurationError(f"the checkpoint can't be read: {reason}.", where=str(path)) from error
