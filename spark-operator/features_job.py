"""The Spark operator's main file: the features step's work in the session of this application.

All logic is in the library; the lake and the other addresses come from ``FASTTRACK_*`` variables.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from fasttrack import usecase as usecases
from fasttrack.errors import FastTrackError
from fasttrack.settings import Settings
from fasttrack.steps.frame import describe, write_text
from fasttrack.steps.here import build_features


def main() -> int:
    """Build, check and materialize; leaves the answer, or the error, in a file. Gives the exit status."""
    options = _parse()
    record: dict[str, Any] = {"run_id": options.run_id}
    try:
        usecase = usecases.load(options.usecase)
        versions = json.loads(options.versions) if options.versions else None
        build_features(usecase, Settings.from_environment(), versions, record)
        code = 0
    except FastTrackError as error:
        sys.stderr.write(f"{error}\n")
        record["error"] = describe(error)
        code = error.exit_code
    if options.result:
        # Numbers of numpy and times as text: the step's record writes them the same way.
        write_text(options.result, json.dumps(record, default=_plain))
    else:
        sys.stdout.write(json.dumps(record, default=_plain) + "\n")
    return code


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--usecase", required=True, help="the use-case file")
    parser.add_argument("--versions", help='lake versions as JSON, such as {"orders": 12}; the newest by default')
    parser.add_argument("--result", type=Path, help="file for the answer; by default it is printed")
    parser.add_argument("--run-id", default="", help="name of the run that wants it")
    return parser.parse_args()


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else str(value)


if __name__ == "__main__":
    sys.exit(main())
