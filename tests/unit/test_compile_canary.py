"""A canary beside the version that is served: what KServe 0.20 takes, in a namespace that enforces `restricted`."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from fasttrack.errors import ConfigurationError
from fasttrack.kubeflow.footprint import footprint
from fasttrack.kubeflow.inference import Canary, inference_service, serving_runtime, storage_uri
from fasttrack.kubeflow.launchers.publish import beside_name
from fasttrack.kubeflow.pods import GPU, ON_GPU
from fasttrack.kubeflow.scaling import Scaling
from fasttrack.kubeflow.sizes import Size, resized
from fasttrack.kubeflow.validation import check
from fasttrack.usecase import load
from fasttrack.usecase.serving import Variant

FLIGHTS = load(Path(__file__).parents[2] / "examples/flights/usecase.yaml")
DIGESTS = {version: f"sha256:{version:064d}" for version in (1, 2, 3)}


def canary(version: int = 2, percent: int = 10) -> Canary:
    return Canary(version, DIGESTS[version], storage_uri(FLIGHTS, DIGESTS[version]), percent)


def service(beside: Canary | None, **options: Any) -> dict[str, Any]:
    uri = storage_uri(FLIGHTS, DIGESTS[1])
    return inference_service(
        FLIGHTS, registry="r", namespace="ml", version=1, digest=DIGESTS[1], storage_uri=uri, canary=beside, **options
    )


@pytest.mark.parametrize("percent", [0, 10, 100])
@pytest.mark.parametrize("options", [{}, {"gpus": True}, {"scaling": Scaling(1, 3, "keda")}], ids=str)
def test_a_canary_passes_what_a_cluster_checks(percent: int, options: dict[str, Any]) -> None:
    check([service(canary(percent=percent), **options), serving_runtime(registry="r", namespace="ml")])


def test_a_canary_is_the_other_version_whole_and_the_served_one_stays_as_it_is() -> None:
    made, alone = service(canary()), service(None)
    (beside,) = made["spec"].pop("canary")
    assert made == alone
    assert beside["trafficPercent"] == 10
    text = str(beside["predictor"])
    # The model's server and its transformer, each with the version and the digest that it refuses all others by.
    assert text.count(f"--digest={DIGESTS[2]}") == text.count("--model_version=2") == 2
    assert DIGESTS[1] not in text
    assert beside["predictor"]["model"]["storageUri"] == storage_uri(FLIGHTS, DIGESTS[2])


def test_a_predictor_of_integers_holds_no_gpu() -> None:
    uri = storage_uri(FLIGHTS, DIGESTS[1])
    gpus = []
    for variant in (None, Variant(pruning=0.5), Variant(quantization="int8")):
        serving = FLIGHTS.serving.model_copy(update={"variant": variant})
        usecase = FLIGHTS.model_copy(update={"serving": serving})
        made = inference_service(
            usecase, registry="r", namespace="ml", version=1, digest=DIGESTS[1], storage_uri=uri, gpus=True
        )
        gpus.append(GPU in str(made) and ON_GPU["name"] in str(made))
    assert gpus == [True, True, False]


def test_a_canary_is_counted_and_sized_as_any_pod() -> None:
    runtime = serving_runtime(registry="r", namespace="ml")
    pods = [sum(group.least for group in footprint([service(it), runtime]).groups) for it in (None, canary())]
    assert pods[1] == pods[0] + 1
    sized = resized(service(canary()), {"predictor": Size("3", "9Gi")})
    resources = sized["spec"]["canary"][0]["predictor"]["model"]["resources"]
    assert (resources["requests"], resources["limits"]["memory"]) == ({"cpu": "3", "memory": "9Gi"}, "9Gi")


def wrong(what: str) -> dict[str, Any]:
    made = service(canary())
    first = made["spec"]["canary"][0]
    second = copy.deepcopy(first)
    if what == "shares":
        second["predictor"]["name"] = "v3"
        first["trafficPercent"] = second["trafficPercent"] = 60
    if what in ("shares", "twins"):
        made["spec"]["canary"].append(second)
    if what == "scaled":
        first["predictor"]["maxReplicas"] = 5
    if what == "privileged":
        first["predictor"]["containers"][0]["securityContext"] = {"privileged": True}
    if what == "percent":
        first["trafficPercent"] = 101
    return made


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("shares", "add up to more than 100"),
        ("twins", "not a name of its own"),
        ("scaled", "fixed number of pods"),
        ("privileged", r"canary\[0\]"),
        ("percent", "trafficPercent|more than 100"),
    ],
)
def test_a_wrong_canary_is_refused(what: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        check([wrong(what), serving_runtime(registry="r", namespace="ml")])


def test_a_challenger_may_be_a_service_of_its_own_that_serves_the_model_s_name() -> None:
    made = service(None, name="flights-v2")
    check([made, serving_runtime(registry="r", namespace="ml")])
    assert made["metadata"]["name"] == "flights-v2"
    # The runtime says --model_name=<the object's name>; what follows it counts.
    assert made["spec"]["predictor"]["model"]["args"][-1] == "--model_name=flights"
    assert str(made).count("--model_name=flights'") == 3
    assert "model_name" not in str(service(None)["spec"]["predictor"]["model"]["args"])
    assert beside_name("x" * 60, 12) != beside_name("x" * 60, 13)
    assert len(beside_name("x" * 60, 12) + "-predictor") <= 63
