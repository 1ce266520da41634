"""Write the golden files and the components' READMEs anew: ``make golden``. Look at the diff before you commit."""

from __future__ import annotations

from pathlib import Path

from fasttrack.kubeflow.compile import compile_usecase
from fasttrack.kubeflow.definitions import checkout, component
from fasttrack.kubeflow.readme import component_readme

USECASE = Path("examples/flights/usecase.yaml")
GOLDEN = Path(__file__).parent / "flights"


def main() -> None:
    """Compile the flights use case into ``tests/golden/flights`` and write the components' READMEs."""
    for path in GOLDEN.rglob("*.*"):
        path.unlink()
    for path in compile_usecase(checkout() / USECASE, GOLDEN):
        print(path.relative_to(checkout()))
    for path in sorted((checkout() / "components").glob("*/component.py")):
        path.with_name("README.md").write_text(component_readme(component(path.parent.name)))


if __name__ == "__main__":
    main()
