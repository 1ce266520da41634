"""The steps' work as objects of a cluster: SparkApplication, TrainJob, Experiment, InferenceService."""

from fasttrack.kubeflow.launchers.launchers import Launchers

__all__ = ["Launchers"]
