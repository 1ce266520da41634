"""The background process of `fasttrack up`: ``python -m fasttrack.local.supervisor --home HOME``."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from fasttrack.errors import FastTrackError
from fasttrack.local.channel import describe
from fasttrack.local.platform import Platform


def main() -> int:
    """Start the platform, say so on the report pipe, supervise until a signal or `fasttrack down` ends it."""
    parser = argparse.ArgumentParser(description="Supervises the parts of a home")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--parts", default="", help="comma-separated; default: all")
    parser.add_argument("--report", type=int, help="descriptor that gets one JSON object when ready or failed")
    options = parser.parse_args()

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, end)
    platform = Platform(options.home)
    try:
        platform.start(options.parts.split(",") if options.parts else None)
        _report(options.report, {"ready": True})
        # In slices: a signal's handler runs between two of them on every system.
        while not platform.wait(1.0):
            pass
    except FastTrackError as error:
        _report(options.report, {"error": describe(error)})
        print(error, file=sys.stderr)
        return error.exit_code
    finally:
        # A second signal must not cut the orderly end short; the keeper ends everything if we are killed.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        platform.stop()
    return 0


def _report(descriptor: int | None, content: dict[str, Any]) -> None:
    if descriptor is not None:
        with os.fdopen(descriptor, "w") as pipe:
            json.dump(content, pipe)


if __name__ == "__main__":
    sys.exit(main())
