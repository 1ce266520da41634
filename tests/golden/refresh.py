"""Write the golden files and the components' READMEs anew: ``make golden``. Look at the diff before you commit."""

from __future__ import annotations

import shutil
from pathlib import Path

from fasttrack.kubeflow.compile import Options, compile_usecase
from fasttrack.kubeflow.definitions import checkout, component
from fasttrack.kubeflow.readme import component_readme
from fasttrack.kubeflow.scaling import Scaling

from .runtimes import runtimes

GOLDEN = Path(__file__).parent
#: Every option is used once.
UGLY = Options(
    gpus=True,
    executors=16,
    scaling=Scaling(1, 3, "keda"),
    retrain="*/30 1-5 * * 1,3",
    refresh="0 * * * *",
    kafka_cluster="events",
    kafka_namespace="streaming",
    kafka_secrets_copied=True,
    kafka_replicas=1,
    gateway="edge",
    gateway_namespace="istio-ingress",
    hostname="models.example.com",
    graph_namespace="open",
    continuous_drain=True,
)
#: By folder: the use case, and what it is compiled with.
CASES = {
    "flights": ("examples/flights/usecase.yaml", {}),
    "ugly": (
        "tests/golden/ugly.yaml",
        {"registry": "registry.example.com:5000/team", "namespace": "ml", "options": UGLY},
    ),
}


def main() -> None:
    """Compile the use cases into their folders here; write the runtimes of manifests/ and the components' READMEs."""
    for name, (path, options) in CASES.items():
        shutil.rmtree(GOLDEN / name, ignore_errors=True)
        for written in compile_usecase(checkout() / path, GOLDEN / name, **options):
            print(written.relative_to(checkout()))
    for target, text in runtimes().items():
        target.write_text(text, encoding="utf-8")
    for path in sorted((checkout() / "components").glob("*/component.py")):
        path.with_name("README.md").write_text(component_readme(component(path.parent.name)))


if __name__ == "__main__":
    main()
