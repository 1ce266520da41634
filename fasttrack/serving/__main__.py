"""``python -m fasttrack.serving predictor|transformer|explainer [flags]``: the servers without the repository."""

from __future__ import annotations

import sys

from fasttrack.serving.start import ROLES, main

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in ROLES:
        sys.exit(f"usage: python -m fasttrack.serving {{{','.join(ROLES)}}} [flags]")
    sys.exit(main(sys.argv[1], sys.argv[2:]))
