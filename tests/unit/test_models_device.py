"""The device is asked for, never guessed; what a GPU computes was measured on one (docs/decisions/0008)."""

from __future__ import annotations

import pytest
import torch

from fasttrack.errors import ConfigurationError
from fasttrack.kubeflow import pods
from fasttrack.models.device import VARIABLE, device


def test_without_a_word_it_is_the_cpu_whatever_the_machine_has() -> None:
    assert device(8, {}) == torch.device("cpu")
    assert device(8, {VARIABLE: "cpu"}) == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "CUDA", "cuda:0"])
def test_another_word_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="cpu or cuda"):
        device(environ={VARIABLE: name})


def test_fewer_gpus_than_processes_are_refused_with_both_numbers() -> None:
    wanted = torch.cuda.device_count() + 1
    with pytest.raises(ConfigurationError, match=f"{wanted} processes want a GPU each.*sees {wanted - 1}"):
        device(wanted, {VARIABLE: "cuda"})


def test_the_pods_of_gpu_nodes_ask_in_the_same_words() -> None:
    assert pods.ON_GPU["name"] == VARIABLE
    with pytest.raises(ConfigurationError, match="want a GPU each"):
        device(1000, {pods.ON_GPU["name"]: pods.ON_GPU["value"]})
