"""The runtimes in ``manifests/kustomize``, as the library renders them: ``python -m tests.golden.runtimes`` writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from fasttrack.kubeflow.images import TRAINER, image
from fasttrack.kubeflow.inference import serving_runtime
from fasttrack.kubeflow.trainjob import training_runtime

KUSTOMIZE = Path(__file__).parents[2] / "manifests/kustomize"

_HEAD = "# Made by `make golden` from {source}; change that and make it again.\n"


def runtimes() -> dict[Path, str]:
    """The files and their texts."""

    def training(gpus: bool) -> dict[str, Any]:
        return training_runtime(image=image("", TRAINER), namespace="fasttrack", gpus=gpus)

    made = {
        KUSTOMIZE / "base/training-runtime.yaml": (training(False), "fasttrack.kubeflow.trainjob"),
        KUSTOMIZE / "components/gpu/training-runtime.yaml": (training(True), "fasttrack.kubeflow.trainjob"),
        KUSTOMIZE / "base/serving-runtime.yaml": (
            serving_runtime(registry="", namespace="fasttrack"),
            "fasttrack.kubeflow.inference",
        ),
    }
    return {path: _HEAD.format(source=source) + _text(document) for path, (document, source) in made.items()}


class _Dumper(yaml.SafeDumper):
    """Writes what occurs twice twice: anchors make a manifest hard to read."""


_Dumper.ignore_aliases = lambda self, data: True


def _text(document: dict[str, Any]) -> str:
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=120)


if __name__ == "__main__":
    for target, text in runtimes().items():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        print(target.relative_to(KUSTOMIZE.parents[1]))
