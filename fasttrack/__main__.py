"""`python -m fasttrack`: the command line."""

from fasttrack.cli import main

main()
