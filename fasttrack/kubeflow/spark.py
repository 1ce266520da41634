"""The features step as a SparkApplication of the Spark operator, once or on a schedule."""

from __future__ import annotations

from typing import Any

import orjson

from fasttrack.kubeflow import pods
from fasttrack.kubeflow.names import object_name
from fasttrack.kubeflow.pods import Object
from fasttrack.usecase import UseCase

API = "sparkoperator.k8s.io/v1beta2"
VERSION = "4.1.1"
#: Where the driver's main file lies in the image.
MAIN = "/opt/fasttrack/features_job.py"
#: Delta's jars, put into the image by its Dockerfile: nothing is fetched when a job starts.
JARS = "/opt/fasttrack/jars"
PYTHON = "/opt/venv/bin/python"

# The operator adds 11 characters for pods and Services, and a number of nanoseconds for a scheduled run.
NAME_LIMIT = 48
SCHEDULED_NAME_LIMIT = 42

_CONF = {
    "spark.driver.extraClassPath": f"{JARS}/*",
    "spark.executor.extraClassPath": f"{JARS}/*",
    # One partition of one entity must fit a Python worker: more of them than cores need less memory at a time.
    "spark.sql.shuffle.partitions": "32",
    "spark.sql.adaptive.enabled": "false",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.execution.arrow.maxRecordsPerBatch": "65536",
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
    "spark.ui.showConsoleProgress": "false",
    # The launcher streams the driver's log: hundreds of lines about blocks would hide its progress.
    "spark.log.level": "WARN",
    "spark.dynamicAllocation.executorIdleTimeout": "60s",
    # An executor that can't be scheduled is told to the user by the launcher, not waited for without end.
    "spark.kubernetes.allocation.batch.size": "4",
    "spark.kubernetes.submission.waitAppCompletion": "false",
    "spark.pyspark.python": PYTHON,
    "spark.pyspark.driver.python": PYTHON,
}


def spark_application(
    usecase: UseCase,
    *,
    image: str,
    namespace: str,
    name: str,
    versions: dict[str, int] | None = None,
    result: str | None = None,
    run_id: str = "",
    executors: int = 4,
    suspend: bool = False,
) -> Object:
    """One run of the features job: build, quality check, online store.

    Args:
        usecase: the use case; its ConfigMap must be there.
        image: image of the job.
        namespace: the namespace of the object.
        name: name of the object.
        versions: lake versions by stream; the newest by default.
        result: file for the job's answer, on the shared volume; by default only the log has it.
        run_id: name of the run that this belongs to.
        executors: how many executors there may be at a time.
        suspend: make the object without starting it.
    """
    arguments = [f"--usecase={pods.USECASE_PATH}/{pods.USECASE_FILE}"]
    if versions is not None:
        arguments.append(f"--versions={orjson.dumps(versions, option=orjson.OPT_SORT_KEYS).decode()}")
    if result is not None:
        arguments.append(f"--result={result}")
    if run_id:
        arguments.append(f"--run-id={run_id}")
    return {
        "apiVersion": API,
        "kind": "SparkApplication",
        "metadata": pods.metadata(object_name(name, NAME_LIMIT), namespace, "features", usecase, run_id),
        "spec": {**_spec(usecase, image, arguments, executors, run_id), "suspend": suspend},
    }


def scheduled_spark_application(
    usecase: UseCase, *, image: str, namespace: str, schedule: str, executors: int = 4, suspend: bool = False
) -> Object:
    """The features job on a schedule: the table stays warm, and the online store fresh, between trainings.

    Args:
        usecase: the use case; its ConfigMap must be there.
        image: image of the job.
        namespace: the namespace of the object.
        schedule: when, as cron writes it, in UTC.
        executors: how many executors there may be at a time.
        suspend: make the object without letting it start jobs.
    """
    name = object_name(f"{usecase.name}-features", SCHEDULED_NAME_LIMIT)
    arguments = [f"--usecase={pods.USECASE_PATH}/{pods.USECASE_FILE}"]
    return {
        "apiVersion": API,
        "kind": "ScheduledSparkApplication",
        "metadata": pods.metadata(name, namespace, "features", usecase),
        "spec": {
            "schedule": schedule,
            "timeZone": "Etc/UTC",
            "suspend": suspend,
            # Two builds of one table at a time do the same work twice.
            "concurrencyPolicy": "Forbid",
            "successfulRunHistoryLimit": 3,
            "failedRunHistoryLimit": 3,
            "template": _spec(usecase, image, arguments, executors, ""),
        },
    }


def _spec(usecase: UseCase, image: str, arguments: list[str], executors: int, run_id: str) -> Object:
    return {
        "type": "Python",
        "mode": "cluster",
        "pythonVersion": "3",
        "sparkVersion": VERSION,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "mainApplicationFile": f"local://{MAIN}",
        "arguments": arguments,
        "sparkConf": dict(_CONF),
        "dynamicAllocation": {
            "enabled": True,
            "initialExecutors": 1,
            "minExecutors": 1,
            "maxExecutors": executors,
            # Shuffle files stay with their executors: there is no shuffle service on Kubernetes.
            "shuffleTrackingEnabled": True,
        },
        # The launcher tries again itself, and knows which errors are worth it.
        "restartPolicy": {"type": "Never"},
        "timeToLiveSeconds": 86400,
        "driver": {
            "cores": 1,
            "memory": "1536m",
            "memoryOverhead": "1g",
            "serviceAccount": pods.SPARK_ACCOUNT,
            "labels": pods.labels("features", usecase, run_id),
            "template": _template(usecase, "spark-kubernetes-driver", driver=True),
        },
        "executor": {
            "instances": 1,
            "cores": 1,
            "memory": "1536m",
            "memoryOverhead": "1536m",
            "labels": pods.labels("features", usecase, run_id),
            "template": _template(usecase, "spark-kubernetes-executor", driver=False),
        },
    }


def _template(usecase: UseCase, container: str, *, driver: bool) -> Object:
    """The pod's template, which spark-submit fills in itself: nothing depends on the operator's pod webhook."""
    mounts = [
        pods.mount("data", pods.DATA_PATH),
        pods.mount("tmp", "/tmp"),  # noqa: S108 - the pod's own
        pods.mount("work", "/opt/spark/work-dir"),
    ]
    volumes = [pods.data_volume(), pods.scratch_volume(), pods.scratch_volume("work")]
    found: dict[str, Any] = {
        "name": container,
        "envFrom": pods.settings_from(),
        "securityContext": pods.container_security(),
        "volumeMounts": mounts,
    }
    if driver:
        mounts.append(pods.mount("usecase", pods.USECASE_PATH, read_only=True))
        volumes.append(pods.usecase_volume(usecase))
        # The driver writes the online store; executors see no secret.
        found["env"] = [pods.secret_variable("FASTTRACK_REDIS")]
    return {
        "metadata": {"labels": pods.labels("features", usecase)},
        "spec": {
            # Only the driver asks the API server for executors.
            "automountServiceAccountToken": driver,
            "securityContext": pods.pod_security(),
            "containers": [found],
            "volumes": volumes,
        },
    }
