"""How a model server starts: flags, package, model, ports; and how it ends when one of them is wrong."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

# Read when numpy is imported. Forward passes of few rows are too short to be shared: threads would only wait, spinning.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from fasttrack.errors import FastTrackError
from fasttrack.serving import request_log
from fasttrack.serving.flags import parse
from fasttrack.serving.package import ServedPackage
from fasttrack.settings import Settings
from fasttrack.tls import ServerTls

ROLES = ("predictor", "transformer", "explainer")


def main(role: str, arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM; the exit code is 0, or that of the error, which is printed in one line.

    The package is verified first, with light imports only: a changed one is refused within a second, before
    anything of it is parsed and before the SDK and torch are loaded.

    Args:
        role: one of `ROLES`.
        arguments: the flags; default: those of the process.
    """
    try:
        options = parse(role, arguments)
        tls = ServerTls.of(options.tls)
        request_log.configure(f"{options.model_name}-{role}")
        key = Settings.from_environment().require("verify_key")
        package = ServedPackage.open(options.package, key, options.model_version, options.digest or None)
        # The SDK reads sys.argv when it is imported; its flags would be taken by the prefix, and --help answered.
        sys.argv[1:] = []
        from fasttrack.serving.server import Server

        model = importlib.import_module(f"fasttrack.serving.{role}").build(options, package)
        Server(options, model, tls).serve()
    except FastTrackError as error:
        print(f"{role}: {error.title}: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    return 0
