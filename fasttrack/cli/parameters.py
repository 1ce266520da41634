"""Parameters that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

#: The namespace where none is given.
NAMESPACE = "fasttrack"

UseCaseFile = Annotated[Path | None, typer.Option("--usecase", "-u", help="The use-case file.")]
UseCaseArgument = Annotated[Path | None, typer.Argument(metavar="[USECASE]", help="The use-case file.")]
Registry = Annotated[str, typer.Option(help="Image registry to prefix, such as registry.example.com/team.")]
Namespace = Annotated[str, typer.Option("--namespace", "-n", help="Namespace of the objects.")]
Compiled = Annotated[
    Path | None, typer.Option("--compiled", help="Take what `fasttrack compile -o DIR` wrote, with all its options.")
]
Context = Annotated[
    str | None, typer.Option("--context", help="Context of the kubeconfig; the current one by default.")
]
