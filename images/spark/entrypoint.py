"""What Spark's Kubernetes scheduler starts in a pod: `driver ARGUMENTS...` or `executor`; other words run as they are.

The contract is that of Spark's own image: variables SPARK_DRIVER_BIND_ADDRESS, SPARK_EXECUTOR_*, SPARK_JAVA_OPT_<n>.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping

_OPTION = re.compile(r"SPARK_JAVA_OPT_(\d+)")


def command(words: list[str], environ: Mapping[str, str]) -> list[str]:
    """The program to become, and its arguments.

    Args:
        words: the container's arguments.
        environ: its environment.

    Raises:
        KeyError: a variable that Spark sets is missing.
    """
    if words[:1] == ["driver"]:
        address = environ["SPARK_DRIVER_BIND_ADDRESS"]
        submit = [f"{environ['SPARK_HOME']}/bin/spark-submit", "--conf", f"spark.driver.bindAddress={address}"]
        submit += ["--conf", f"spark.executorEnv.SPARK_DRIVER_POD_IP={address}"]
        return [*submit, "--deploy-mode", "client", *words[1:]]
    if words[:1] == ["executor"]:
        return _executor(environ)
    return words


def _executor(environ: Mapping[str, str]) -> list[str]:
    numbered = sorted((int(match[1]), value) for name, value in environ.items() if (match := _OPTION.fullmatch(name)))
    paths = [environ.get(name) for name in ("SPARK_CONF_DIR", "SPARK_EXTRA_CLASSPATH", "SPARK_CLASSPATH")]
    memory = environ["SPARK_EXECUTOR_MEMORY"]
    java = [f"{environ['JAVA_HOME']}/bin/java", *(value for _, value in numbered), f"-Xms{memory}", f"-Xmx{memory}"]
    java += ["-cp", os.pathsep.join([path for path in paths if path] + [f"{environ['SPARK_HOME']}/jars/*"])]
    return [
        *java,
        "org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend",
        *("--driver-url", environ["SPARK_DRIVER_URL"]),
        *("--executor-id", environ["SPARK_EXECUTOR_ID"]),
        *("--cores", environ["SPARK_EXECUTOR_CORES"]),
        *("--app-id", environ["SPARK_APPLICATION_ID"]),
        *("--hostname", environ["SPARK_EXECUTOR_POD_IP"]),
        *("--resourceProfileId", environ["SPARK_RESOURCE_PROFILE_ID"]),
        *("--podName", environ["SPARK_EXECUTOR_POD_NAME"]),
    ]


if __name__ == "__main__":
    program = command(sys.argv[1:] or ["python"], os.environ)
    os.execvp(program[0], program)  # noqa: S606 - the pod's first process is Spark's, so that it gets the signals
