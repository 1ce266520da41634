"""The check before anything is written: right objects pass, and one wrong field of any of them is refused."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fasttrack.errors import ConfigurationError
from fasttrack.kubeflow.rules import pod_security
from fasttrack.kubeflow.validation import check, problems

GOLDEN = Path(__file__).parents[1] / "golden"
Object = dict[str, Any]


def golden(case: str) -> list[Object]:
    # Not what is for KFP and for kustomize.
    files = [path for path in sorted((GOLDEN / case).rglob("*.yaml")) if path.parent.name not in ("kfp", "gateway")]
    return [document for path in files for document in yaml.safe_load_all(path.read_text())]


FLIGHTS, UGLY = golden("flights"), golden("ugly")
KINDS = {document["kind"]: document for document in [*UGLY, *FLIGHTS]}


def changed(kind: str, path: str, value: Any) -> Object:
    """The golden object of a kind, with another value at `path`; None takes the field away, ``~`` is a key's slash."""
    made = copy.deepcopy(KINDS[kind])
    *parts, last = [int(part) if part.isdecimal() else part.replace("~", "/") for part in path.split("/")]
    node: Any = made
    for part in parts:
        node = node[part]
    if value is None:
        del node[last]
    else:
        node[last] = value
    return made


@pytest.mark.parametrize("case", [FLIGHTS, UGLY], ids=["flights", "ugly"])
def test_what_we_compile_is_right(case: list[Object]) -> None:
    check(case, restricted=["fasttrack", "ml"])


WRONG = [
    ("ConfigMap", "metadata/name", "Flights", "'Flights' is not a name"),
    ("ConfigMap", "metadata/labels/a b", "x", "is not a key of labels"),
    ("ConfigMap", "metadata/labels/fasttrack.ai~usecase", "a b", "is not the value of a label"),
    ("ConfigMap", "data/a b", "x", "is not a key of a ConfigMap"),
    ("Experiment", "spec/algorithm/algorithmName", "no-such", "'no-such' is not one of random, tpe"),
    ("Experiment", "spec/objective/type", "smallest", "neither minimize nor maximize"),
    ("Experiment", "spec/objective", None, "spec.objective: is required"),
    ("Experiment", "spec/maxTrialsCount", 3, "unknown field"),
    ("Experiment", "spec/parallelTrialCount", 99, "above maxTrialCount"),
    ("Experiment", "spec/parameters/1/parameterType", "float", "'float' is not one of"),
    ("Experiment", "spec/parameters/1/feasibleSpace", {}, "is required"),
    ("Experiment", "spec/parameters/0/feasibleSpace/list/0", "m l p; reboot", "Katib's shell would read"),
    ("Experiment", "spec/trialTemplate/primaryContainerName", "", "is required"),
    ("Experiment", "spec/trialTemplate/trialParameters/0/reference", "nothing", "is not in spec.parameters"),
    ("Experiment", "spec/trialTemplate/trialParameters/0/name", "other", "does not stand in the trial"),
    ("Experiment", "spec/trialTemplate/trialSpec/spec/runtimeRef/name", "other", "there is no TrainingRuntime 'other'"),
    ("Experiment", "spec/metricsCollectorSpec/source/fileSystemPath/path", "here", "absolute path"),
    ("Experiment", "metadata/name", "x" * 40, "at most 39 characters"),
    ("SparkApplication", "spec/mode", "nearby", "spec.mode: 'nearby' is not one of"),
    ("SparkApplication", "spec/nodeSelectors", {}, "unknown field"),
    ("SparkApplication", "spec/dynamicAllocation/maxExecutors", 0, "out of order"),
    ("SparkApplication", "spec/dynamicAllocation/shuffleTrackingEnabled", False, "no shuffle service"),
    ("SparkApplication", "spec/driver/memory", "much", "is not a size"),
    ("SparkApplication", "spec/driver/serviceAccount", None, "is required"),
    ("SparkApplication", "spec/driver/template/spec/containers/0/securityContext", {}, "Pod Security"),
    ("SparkApplication", "metadata/name", "1st", "a letter first"),
    ("ScheduledSparkApplication", "spec/schedule", "daily", "is not a schedule"),
    ("ScheduledSparkApplication", "spec/template/driver/cores", "one", "is not of type integer"),
    ("TrainJob", "spec/runtimeRef/name", "no-such-runtime", "there is no TrainingRuntime 'no-such-runtime'"),
    ("TrainJob", "spec/trainer/env", [{"name": "PET_NNODES", "value": "2"}], "only the Trainer sets these"),
    ("TrainJob", "spec/trainer/numNodes", "two", "is not of type integer"),
    ("TrainJob", "spec/podSpecOverrides", [], "unknown field"),
    ("TrainJob", "spec/runtimePatches/0/manager", "me", "is not a domain"),
    ("TrainJob", "metadata/name", "x" * 60, "JobSet puts more behind it"),
    ("TrainingRuntime", "spec/mlPolicy/mpi", {}, "Only one of the policy can be configured"),
    ("TrainingRuntime", "spec/mlPolicy/numNodes", "1", "is not of type integer"),
    ("TrainingRuntime", "spec/template/spec/replicatedJobs/0/template/spec/template/spec/hostNetwork", True, "refuses"),
    ("InferenceService", "spec/predictor/minReplicas", 50, "minReplicas 50 is above maxReplicas"),
    ("InferenceService", "spec/predictor/scaleTarget", 170, "is not a percentage"),
    ("InferenceService", "spec/predictor/scaleMetric", "rps", "is not for hpa"),
    ("InferenceService", "spec/predictor/canaryTrafficPercent", 10, "does nothing in Standard mode"),
    ("InferenceService", "spec/predictor/sklearn", {"storageUri": "s3://a"}, "needs exactly one server"),
    ("InferenceService", "spec/predictor/model/storageUri", None, "storageUri: is required"),
    ("InferenceService", "spec/explainer/containers/0/env", [{"name": "PYTHONPATH", "value": "/x"}], "PYTHONPATH"),
    ("InferenceService", "spec/explainer/containers/0/securityContext/capabilities", {}, "Pod Security"),
    ("InferenceService", "spec/predictor/containers/0/prots", [], "unknown field"),
    ("InferenceService", "metadata/name", "x" * 60, "KServe puts more behind it"),
    ("InferenceService", "metadata/namespace", "n" * 62, "Shorten one"),
    ("ServingRuntime", "spec/containers/0/name", "server", "has no container called kserve-container"),
    ("ServingRuntime", "spec/supportedModelFormats/0/priority", "first", "is not of type integer"),
    ("InferenceGraph", "spec/nodes/start", {"routerType": "Chance"}, "is not one of"),
    ("InferenceGraph", "spec/nodes/root/steps/0/nodeName", "x", "one of nodeName, serviceName and serviceUrl"),
    ("KafkaTopic", "spec/topicName", "a topic", "can't be a topic"),
    ("KafkaTopic", "spec/partitions", 0, "0 is below 1"),
    ("KafkaTopic", "spec/replicas", 1, "nothing can be written"),
    ("KafkaTopic", "metadata/labels/strimzi.io~cluster", None, "no operator looks at it"),
    ("KafkaUser", "spec/authentication/type", "password", "is not one of"),
    ("KafkaUser", "spec/authentication/validityDays", 3, "must be set together"),
    ("KafkaConnector", "metadata/labels/strimzi.io~cluster", None, "no operator looks at it"),
    ("KafkaConnector", "spec/class", "", "spec.class: is required"),
    ("KafkaConnector", "spec/config/connector.class", "a.b.C", "is Strimzi's to set"),
    ("KafkaConnector", "spec/config/tasks.max", "2", "is Strimzi's to set"),
    ("KafkaConnector", "spec/config/database.password", "secret", "a secret stands in the object"),
    ("KafkaConnector", "spec/config/transforms", "unwrap,more", "transform 'more' has no type"),
    ("Deployment", "metadata/name", "x" * 64, "as its pods' names begin with it"),
    ("Deployment", "spec/selector/matchLabels", {}, "spec.selector.matchLabels"),
    ("Deployment", "spec/selector/matchLabels/other", "label", "doesn't match the labels of the pods"),
    ("Deployment", "spec/strategy/type", "Replace", "spec.strategy.type"),
    ("Deployment", "spec/template/metadata/labels/a b", "x", "is not a key of labels"),
    ("Deployment", "spec/template/spec/containers/0/livenessProbe", None, "livenessProbe"),
    ("Deployment", "spec/template/spec/containers/0/livenessProbe/httpGet/port", "no", "which the container has not"),
    ("Deployment", "spec/template/spec/containers/0/volumeMounts/0/name", "no", "there is no volume 'no'"),
    ("Deployment", "spec/template/spec/containers/0/env/0/name", "1st", "'1st' is not a variable"),
    ("Deployment", "spec/template/spec/containers/0/resources/limits/memory", "much", "'much' is not"),
    ("Deployment", "spec/template/spec/containers/0/ports/0/containerPort", 0, "containerPort"),
    ("Deployment", "spec/template/spec/hostNetwork", True, "hostNetwork"),
    ("Deployment", "spec/template/spec/containers/0/securityContext", {}, "Pod Security"),
    ("ServiceMonitor", "spec/endpoints/0/interval", "often", "does not match"),
    ("ServiceMonitor", "spec/selector", None, "selector is required"),
    ("PodMonitor", "spec/podMetricsEndpoints/0/port", None, "needs one port"),
    ("PrometheusRule", "spec/groups/0/rules/0/expr", "sum(rate(x[5m])", "is not an expression"),
    ("PrometheusRule", "spec/groups/0/rules/0/for", "a while", "does not match"),
    ("HTTPRoute", "spec/rules/0/matches/0/path/value", "v1/usecases", "must be an absolute path"),
    ("HTTPRoute", "spec/rules/0/backendRefs/0/port", None, "port"),
    ("HTTPRoute", "spec/hostnames", ["*.*.com"], "does not match"),
    ("Pipeline", "spec/displayNames", "x", "unknown field"),
    ("PipelineVersion", "spec/pipelineName", "", "is required"),
]


@pytest.mark.parametrize(("kind", "path", "value", "reason"), WRONG, ids=[f"{kind}-{path}" for kind, path, *_ in WRONG])
def test_one_wrong_field_is_refused_with_the_reason(kind: str, path: str, value: Any, reason: str) -> None:
    with pytest.raises(ConfigurationError) as told:
        check([changed(kind, path, value)])
    assert reason in told.value.what
    assert str(told.value.where).startswith(kind)


def fields(node: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The paths of all fields below `node` that have a fixed type."""
    pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in pairs:
        yield (*path, key)
        yield from fields(value, (*path, key))


# Free-form by nature: data of users, KFP's own documents, and what its CRD leaves open.
OPEN = (
    "data",
    "pipelineSpec",
    "platformSpec",
    "config",
    "status",
    "template",
    "annotations",
    "sparkConf",
    "hadoopConf",
)
TYPED = [
    (kind, path)
    for kind in sorted(KINDS)
    for path in fields(KINDS[kind])
    if path[0] == "spec"
    and len(path) > 1
    # The fields of a TrainingRuntime lie below "template".
    and not (set(path) & set(OPEN[:-3] if kind != "TrainingRuntime" else OPEN[:5]))
    # The form of pods in there is checked by the API server only when they are made; labels and amounts are free.
    and not {"labels", "matchLabels", "primaryPodLabels", "requests", "limits"} & set(path)
]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(place=st.sampled_from(TYPED), data=st.data())
def test_a_value_of_another_type_is_refused_wherever_it_stands(
    place: tuple[str, tuple[str | int, ...]], data: st.DataObject
) -> None:
    kind, path = place
    made = copy.deepcopy(KINDS[kind])
    node: Any = made
    for part in path[:-1]:
        node = node[part]
    was = node[path[-1]]
    others = {str: [{"a": 1}, ["x"]], int: [{"a": 1}, 0.5], bool: ["yes", 3], dict: ["x", 7], list: ["x", {"a": 1}]}
    node[path[-1]] = data.draw(st.sampled_from(others[type(was)]))
    with pytest.raises(ConfigurationError):
        check([made])


#: Keys of these are anybody's choice.
MAPS = {"sparkConf", "hadoopConf"}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    place=st.sampled_from([each for each in TYPED if not MAPS & set(each[1])]),
    word=st.from_regex(r"[a-z]{3,8}Zz", fullmatch=True),
)
def test_a_field_that_does_not_exist_is_refused_wherever_it_stands(
    place: tuple[str, tuple[str | int, ...]], word: str
) -> None:
    kind, path = place
    made = copy.deepcopy(KINDS[kind])
    node = made["spec"]
    for part in path[1:]:
        if not isinstance(node[part], dict) or part == "nodes":
            break
        node = node[part]
    node[word] = "x"
    with pytest.raises(ConfigurationError, match=word):
        check([made])


def test_two_objects_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="two objects of this name"):
        check([KINDS["KafkaTopic"], copy.deepcopy(KINDS["KafkaTopic"])])


def test_a_kind_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="is not a kind that FastTrack knows"):
        check([{"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "x", "namespace": "y"}}])


def test_an_inference_graph_needs_a_namespace_that_admits_its_router() -> None:
    graph = KINDS["InferenceGraph"]
    check([graph], restricted=["fasttrack"])
    with pytest.raises(ConfigurationError, match="names no seccomp profile"):
        check([graph], restricted=[graph["metadata"]["namespace"]])


SAMPLES = """
{apiVersion: kubeflow.org/v1beta1, kind: Experiment, metadata: {name: s, namespace: s}, spec: {
  objective: {type: minimize, objectiveMetricName: loss}, algorithm: {algorithmName: no-such-algorithm},
  parameters: [{name: lr, parameterType: double, feasibleSpace: {min: "0.001", max: "0.1"}}],
  trialTemplate: {primaryContainerName: c, trialParameters: [{name: r, reference: lr}],
    trialSpec: {apiVersion: batch/v1, kind: Job, spec: {command: ["${trialParameters.r}"]}}}}}
---
{apiVersion: serving.kserve.io/v1beta1, kind: InferenceService, metadata: {name: s, namespace: s}, spec: {
  predictor: {minReplicas: 5, maxReplicas: 3, model: {modelFormat: {name: sklearn}, storageUri: s3://models/s}}}}
---
{apiVersion: sparkoperator.k8s.io/v1beta2, kind: SparkApplication, metadata: {name: s, namespace: s}, spec: {
  type: Python, mode: cluster, sparkVersion: 4.0.1, image: x, mainApplicationFile: local:///f.py, nodeSelector: {a: b},
  driver: {cores: 1, nodeSelector: {c: d}, serviceAccount: default}, executor: {cores: 1}}}
---
{apiVersion: trainer.kubeflow.org/v1alpha1, kind: TrainJob, metadata: {name: s, namespace: s}, spec: {
  runtimeRef: {name: no-such-runtime}}}
---
{apiVersion: argoproj.io/v1alpha1, kind: Workflow, metadata: {name: s, namespace: s}, spec: {
  entrypoint: 5, templates: [{name: main, container: {image: x, command: [echo]}}]}}
"""


@pytest.mark.parametrize("sample", yaml.safe_load_all(SAMPLES), ids=lambda sample: sample["kind"])
def test_what_the_real_webhooks_refuse_is_refused_here_first(sample: Object) -> None:
    assert list(problems(sample, restricted=False))


def test_every_pod_that_we_make_is_one_that_a_restricted_namespace_admits() -> None:
    for document in [*FLIGHTS, *UGLY]:
        if document["kind"] != "InferenceGraph":
            assert list(pod_security.problems(document)) == []
