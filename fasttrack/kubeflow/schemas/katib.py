"""The schema of an Experiment, which Katib's CRD leaves out (pkg/apis/controller/{experiments,common}/v1beta1)."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer"}
_OPEN: Schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
_TEXTS: Schema = {"type": "array", "items": _TEXT}


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties}


def _list(item: Schema) -> Schema:
    return {"type": "array", "items": item}


_ALGORITHM = _object(algorithmName=_TEXT, algorithmSettings=_list(_object(name=_TEXT, value=_TEXT)))
_PARAMETER = _object(
    name=_TEXT,
    parameterType=_TEXT,
    feasibleSpace=_object(max=_TEXT, min=_TEXT, list=_TEXTS, step=_TEXT, distribution=_TEXT),
)
_OBJECTIVE = _object(
    type=_TEXT,
    goal={"type": "number"},
    objectiveMetricName=_TEXT,
    additionalMetricNames=_TEXTS,
    metricStrategies=_list(_object(name=_TEXT, value=_TEXT)),
)
_COLLECTOR = _object(
    collector=_object(kind=_TEXT, customCollector=_OPEN),
    source=_object(
        fileSystemPath=_object(kind=_TEXT, format=_TEXT, path=_TEXT),
        filter=_object(metricsFormat=_TEXTS),
        httpGet=_OPEN,
    ),
)
_TEMPLATE = _object(
    retain={"type": "boolean"},
    trialSpec={**_OPEN, "properties": {"apiVersion": _TEXT, "kind": _TEXT, "metadata": _OPEN, "spec": _OPEN}},
    configMap=_object(configMapName=_TEXT, configMapNamespace=_TEXT, templatePath=_TEXT),
    trialParameters=_list(_object(name=_TEXT, description=_TEXT, reference=_TEXT)),
    primaryPodLabels={"type": "object", "additionalProperties": _TEXT},
    primaryContainerName=_TEXT,
    successCondition=_TEXT,
    failureCondition=_TEXT,
)
EXPERIMENT = _object(
    spec=_object(
        parameters=_list(_PARAMETER),
        objective=_OBJECTIVE,
        algorithm=_ALGORITHM,
        earlyStopping=_ALGORITHM,
        trialTemplate=_TEMPLATE,
        parallelTrialCount=_COUNT,
        maxTrialCount=_COUNT,
        maxFailedTrialCount=_COUNT,
        metricsCollectorSpec=_COLLECTOR,
        nasConfig=_OPEN,
        resumePolicy=_TEXT,
    ),
    status=_OPEN,
)
EXPERIMENT["required"] = ["spec"]
