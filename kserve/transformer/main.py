"""Container entry point of the transformer; the flags are in kserve/README.md."""

from __future__ import annotations

import sys

from fasttrack.serving.start import main

if __name__ == "__main__":
    sys.exit(main("transformer"))
