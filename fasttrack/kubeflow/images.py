"""The names of the images: ``<registry>/fasttrack/<deployable>:<version>``."""

from __future__ import annotations

import fasttrack

PREFIX = "fasttrack/"

#: The features job, driver and executors.
SPARK = "spark"
#: Pods of TrainJobs and trials; it holds the trial's entry point.
TRAINER = "trainer"
#: What drains, and what reads sources: both need the same packages.
INGEST = "drain"


def image(registry: str, name: str) -> str:
    """The image of a deployable, of this version of the library.

    Args:
        registry: what stands before the name, such as ``registry.example.com/team``; may be empty.
        name: the deployable: a step, ``spark``, ``trainer``, ``predictor`` and so on.
    """
    prefix = f"{registry.rstrip('/')}/" if registry else ""
    return f"{prefix}{PREFIX}{name}:{fasttrack.__version__}"
