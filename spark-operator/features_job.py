"""The Spark operator's main file: build a use case's feature table in the session of this application.

All logic is in `fasttrack.features`; the lake and the other addresses come from ``FASTTRACK_*`` variables.
"""

from __future__ import annotations

import argparse
import json
import sys

from fasttrack import usecase as usecases
from fasttrack.errors import FastTrackError
from fasttrack.features.job import build
from fasttrack.features.quality import check
from fasttrack.settings import Settings


def main() -> int:
    """Build and check; prints path, fingerprint and rows as one line of JSON. Gives the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--usecase", required=True, help="the use-case file")
    parser.add_argument("--versions", help='lake versions as JSON, such as {"orders": 12}; the newest by default')
    arguments = parser.parse_args()
    try:
        usecase = usecases.load(arguments.usecase)
        versions = json.loads(arguments.versions) if arguments.versions else None
        table = build(usecase, Settings.from_environment(), versions=versions)
        check(usecase, table.path)
    except FastTrackError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    answer = {"path": table.path, "fingerprint": table.fingerprint, "rows": table.rows, "reused": table.reused}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
