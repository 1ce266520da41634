"""The training pipeline: events -> lake -> features -> (tune -> train -> evaluate -> gate)+ -> register -> publish.

One definition for both substrates: ``kfp.local`` runs it, ``fasttrack compile`` makes IR of it. A refusal by the
gate leads to another round of tuning; the rounds are unrolled when the pipeline is defined, since neither side
has loops. Conditions compare return values (``Output``): on a named output ``dsl.If`` skips its branch silently.
"""

from typing import Any, NamedTuple

from kfp import dsl

from components.drain.component import drain
from components.evaluate.component import evaluate
from components.features.component import features
from components.gate.component import gate
from components.publish.component import publish
from components.refuse.component import refuse
from components.register.component import register
from components.report.component import report
from components.train.component import train
from components.tune.component import tune
from components.validate.component import validate
from fasttrack.kubeflow import pods
from fasttrack.kubeflow.step_pods import secret_volume
from fasttrack.steps.frame import ACCEPTED, REFUSED, RUN_ID

_PLAIN = (
    *("KAFKA", "SCHEMA_REGISTRY", "LAKE", "PACKAGES", "RUNS", "GATEWAY", "SIGNING_KEY", "VERIFY_KEY"),
    *("LIMIT_FEATURES", "LIMIT_TRAIN", "LIMIT_TUNE", "LIMIT_PUBLISH"),
    *("LIMIT_PENDING", "LIMIT_STUCK", "LIMIT_CLEANUP", "LIMIT_ATTEMPTS"),
)
_SECRET = ("POSTGRES", "REDIS")
#: Which steps see which key: nobody but the step that signs packages can read the private one.
_KEYS = {
    pods.SIGNING_KEY: (pods.SIGNING_PATH, ("register",)),
    pods.VERIFY_KEY: (pods.VERIFY_PATH, ("register", "publish")),
}


def training(name: str, rounds: int) -> dsl.base_component.BaseComponent:
    """Define the pipeline of one use case.

    Args:
        name: name of the use case.
        rounds: how often a model is tuned and judged before the run fails.

    Returns:
        A pipeline with the parameters ``usecase`` (YAML text) and ``run_id`` (a name for the run's records; on a
        cluster, the id of KFP's run by default).
    """

    @dsl.pipeline(name=f"{name}-training", description=f"Train, judge and publish a model of the use case {name}.")
    def pipeline(usecase: str, run_id: str = "") -> None:
        with dsl.ExitHandler(_settle(report(usecase=usecase, run_id=run_id)), name="run"):
            drained = _settle(drain(usecase=usecase, run_id=run_id))
            checked = _settle(validate(usecase=usecase, run_id=run_id, lake=drained.outputs["Output"]))
            lake = checked.outputs["Output"]
            table = _settle(features(usecase=usecase, run_id=run_id, lake=lake))
            _round(1, rounds, Given(usecase, run_id, lake, table.outputs["Output"]))

    return pipeline


class Given(NamedTuple):
    """What every round starts from: pipeline parameters and the outputs of the steps before (KFP's channels)."""

    usecase: Any
    run_id: Any
    lake: Any
    table: Any


def _round(number: int, rounds: int, given: Given) -> None:
    """One round, and inside its refusal the next one."""
    usecase, run_id, lake, table = given
    common = {"usecase": usecase, "run_id": run_id, "round": number}
    chosen = _settle(tune(features=table, **common))
    fitted = _settle(train(features=table, candidate=chosen.outputs["Output"], **common))
    scored = _settle(evaluate(features=table, model=fitted.outputs["Output"], **common))
    model = scored.outputs["Output"]
    decided = _settle(gate(model=model, **common))
    with dsl.If(decided.outputs["Output"] == ACCEPTED, name=f"{ACCEPTED}-{number}"):
        version = _settle(register(lake=lake, model=model, **common))
        _settle(publish(usecase=usecase, run_id=run_id, version=version.outputs["Output"]))
    with dsl.If(decided.outputs["Output"] == REFUSED, name=f"{REFUSED}-{number}"):
        if number < rounds:
            _round(number + 1, rounds, given)
        else:
            _settle(refuse(usecase=usecase, run_id=run_id, rounds=rounds))


def _settle(task: dsl.PipelineTask) -> dsl.PipelineTask:
    """What every task has: no cache of KFP's (steps know themselves what is still good), settings, keys, the volume."""
    task.set_caching_options(False)
    step = task.component_spec.name
    task.platform_config["kubernetes"] = {
        "configMapAsEnv": [_variables("configMapName", pods.SETTINGS, "configMapKey", _PLAIN)],
        "secretAsEnv": [_variables("secretName", pods.SECRETS, "secretKey", _SECRET)],
        "secretAsVolume": [secret_volume(secret, path) for secret, (path, steps) in _KEYS.items() if step in steps],
        "pvcMount": [_claim(pods.DATA, pods.DATA_PATH)],
        # KFP puts its run's id on every pod; schedules give no other name.
        "fieldPathAsEnv": [{"name": RUN_ID, "fieldPath": "metadata.labels['pipeline/runid']"}],
        "securityContext": {"runAsUser": pods.USER, "runAsGroup": pods.USER, "runAsNonRoot": True},
    }
    return task


def _variables(of: str, name: str, key: str, words: tuple[str, ...]) -> dict[str, object]:
    variables = [f"FASTTRACK_{word}" for word in words]
    return {of: name, "optional": True, "keyToEnv": [{key: variable, "envVar": variable} for variable in variables]}


def _claim(name: str, path: str) -> dict[str, object]:
    return {"constant": name, "pvcNameParameter": {"runtimeValue": {"constant": name}}, "mountPath": path}
