"""The `fasttrack` command: human output by default, ``--json`` for machines, exit codes that mean something."""

from fasttrack.cli.main import main

__all__ = ["main"]
