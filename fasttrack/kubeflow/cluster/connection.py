"""The way to a cluster: from a pod by its service account, from elsewhere by a kubeconfig file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fasttrack.errors import ConfigurationError

#: Where a pod finds its service account.
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


def in_pod() -> bool:
    """Whether this process runs in a pod that may talk to its API server."""
    return bool(os.environ.get("KUBERNETES_SERVICE_HOST")) and (ACCOUNT / "token").is_file()


def pod_namespace() -> str:
    """The namespace of the pod that this process runs in.

    Raises:
        ConfigurationError: it isn't in a pod, or the pod hides it.
    """
    try:
        return (ACCOUNT / "namespace").read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigurationError(
            f"the pod's namespace can't be read: {error.strerror}.",
            where=str(ACCOUNT),
            fix="Let the pod mount its service account's token.",
        ) from error


def api_client(context: str | None = None, kubeconfig: str | None = None) -> Any:
    """An `ApiClient` of the kubernetes package.

    Args:
        context: a context of the kubeconfig; the current one by default.
        kubeconfig: path of the file; by default what ``KUBECONFIG`` names, or ``~/.kube/config``.

    Raises:
        ConfigurationError: the extra isn't installed, there is no kubeconfig, or it can't be used.
    """
    try:
        from kubernetes import client, config
    except ImportError as error:
        raise ConfigurationError(
            "the kubernetes client isn't installed.", fix="Install the extra `kubeflow`."
        ) from error
    configuration = client.Configuration()
    # Ours knows which requests may be repeated; urllib3's knows nothing of webhooks.
    configuration.retries = False
    try:
        if in_pod() and context is None and kubeconfig is None and "KUBECONFIG" not in os.environ:
            config.load_incluster_config(client_configuration=configuration)
        else:
            config.load_kube_config(
                config_file=kubeconfig, context=context, client_configuration=configuration, persist_config=False
            )
    except (config.ConfigException, OSError, ValueError, TypeError) as error:
        raise ConfigurationError(
            f"no cluster can be named: {error}.",
            where=kubeconfig or os.environ.get("KUBECONFIG", "~/.kube/config"),
            fix="Let KUBECONFIG name a kubeconfig file, and --context one of its contexts.",
        ) from error
    return client.ApiClient(configuration)
