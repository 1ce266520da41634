"""What the pods of a pipeline's steps get when it is compiled: image, variables, and room.

Not in the pipeline's definition: ``kfp.local`` warns of each of them, and registry and options are known only here.
"""

from __future__ import annotations

from typing import Any

from fasttrack.errors import ConfigurationError
from fasttrack.kubeflow.images import PREFIX, image
from fasttrack.kubeflow.kafka_access import KafkaAccess
from fasttrack.kubeflow.run_options import LAUNCHERS, RunOptions

# CPU, memory and most memory: quotas refuse pods that don't say. Most steps only wait for others.
_NEEDS = {"drain": ("1", "1Gi", "4Gi"), "validate": ("500m", "1Gi", "4Gi"), "evaluate": ("1", "2Gi", "8Gi")}
# Steps that ask Kafka.
_KAFKA = ("drain", "validate")
_SMALL = ("100m", "256Mi", "1Gi")


def complete_steps(pipeline: Any, registry: str, options: RunOptions, kafka: KafkaAccess | None) -> None:
    """Put image, variables and resources into every step.

    Args:
        pipeline: a KFP graph component; its executors are changed.
        registry: what stands before the images.
        options: what the launchers have to know.
        kafka: who the steps are for Kafka, if anybody.

    Raises:
        ConfigurationError: a step's image isn't one of ours.
    """
    platform = pipeline.platform_spec.platforms["kubernetes"].deployment_spec.executors
    for label, executor in pipeline.pipeline_spec.deployment_spec["executors"].items():
        container = executor["container"]
        name = container["image"]
        if not name.startswith(PREFIX):
            raise ConfigurationError(f"a step has the image {name!r}.", fix=f"Name it {PREFIX}<step>.")
        step = name.removeprefix(PREFIX)
        container["image"] = image(registry, step)
        cpu, memory, most = _NEEDS.get(step, _SMALL)
        container["resources"] = {
            "resourceCpuRequest": cpu,
            "resourceMemoryRequest": memory,
            "resourceMemoryLimit": most,
        }
        if step in LAUNCHERS:
            container["env"] = options.variables()
        if kafka and step in _KAFKA:
            container["env"] = kafka.env()
            for path, secret in kafka.secrets.items():
                platform[label]["secretAsVolume"].append(secret_volume(secret, path))


def secret_volume(secret: str, path: str) -> dict[str, object]:
    """A Secret as a step's volume, in kfp-kubernetes' words."""
    # KFP reads the parameter; its older versions read the plain name.
    constant = {"runtimeValue": {"constant": secret}}
    return {"secretName": secret, "secretNameParameter": constant, "mountPath": path, "optional": False}
