"""The API of Kubeflow Pipelines, by way of its own client; its errors come as FastTrack's."""

from __future__ import annotations

import contextlib
import io
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

import orjson

from fasttrack.errors import (
    AuthenticationError,
    AuthorizationError,
    ConfigurationError,
    FastTrackError,
    NotFoundError,
    UnavailableError,
)

_REACH = "Forward it (kubectl -n kubeflow port-forward svc/ml-pipeline 8888) and give --host http://127.0.0.1:8888."
_LOG = "Its log tells more: kubectl -n kubeflow logs deployment/ml-pipeline."
_TIMEOUT = 30

T = TypeVar("T")


class Api:
    """A reachable KFP.

    Args:
        kfp_client: a `kfp.Client`.
        host: its URL.
    """

    def __init__(self, kfp_client: Any, host: str) -> None:
        self._client = kfp_client
        self._host = host

    @classmethod
    def connect(cls, host: str, token: str, namespace: str) -> Api:
        """Connect to KFP.

        Args:
            host: its URL.
            token: bearer token, where it wants one.
            namespace: where runs go, if it serves several users.

        Raises:
            ConfigurationError: no host is given, it is no URL, or `kfp` isn't installed.
            UnavailableError: nothing, or something else than KFP, answers there.
            AuthenticationError: it wants a token, or another one.
        """
        if urlsplit(host).scheme not in ("http", "https"):
            raise ConfigurationError(f"{host!r} is no URL of KFP's API.", where="--host", fix=_REACH)
        # Asked first: the client's constructor tries for half a minute and prints traces.
        several = bool(_health(host, token).get("multi_user"))
        try:
            from kfp.client import Client
        except ImportError as error:
            raise ConfigurationError(
                "kfp isn't installed.", fix="Install the extra `pipelines` (make setup)."
            ) from error
        own = namespace if several else "kubeflow"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # that it speaks to KFP 2 only
            made = _call(lambda: Client(host=host, existing_token=token or None, namespace=own), host)
        return cls(made, host)

    def start(self, **arguments: Any) -> Any:
        """Start a run; see `kfp.Client.create_run_from_pipeline_package`."""
        return _call(lambda: self._client.create_run_from_pipeline_package(**arguments), self._host)

    def schedule(self, wanted: dict[str, Any], package: str, experiment: str, earlier: str) -> int:
        """Let KFP start a pipeline on a schedule, in place of what was scheduled for it before.

        Args:
            wanted: the recurring run (V2beta1RecurringRun) without pipeline and experiment.
            package: file of the pipeline.
            experiment: name of its experiment.
            earlier: what the names of the recurring runs begin with that it takes the place of.

        Returns:
            How many were deleted, after the new one was there.
        """

        def replace() -> int:
            client, name = self._client, wanted["display_name"]
            home = client.create_experiment(name=experiment).experiment_id
            there = [each for each in self._scheduled(home) if each.display_name.startswith(earlier)]
            if name not in [each.display_name for each in there]:
                client.create_recurring_run(
                    home,
                    name,
                    description=wanted["description"],
                    cron_expression=wanted["trigger"]["cron_schedule"]["cron"],
                    max_concurrency=wanted["max_concurrency"],
                    no_catchup=wanted["no_catchup"],
                    params=wanted["runtime_config"]["parameters"],
                    pipeline_package_path=package,
                    enable_caching=False,
                    service_account=wanted["service_account"],
                )
            others = [each.recurring_run_id for each in there if each.display_name != name]
            for identity in others:
                client.delete_recurring_run(identity)
            return len(others)

        return _call(replace, self._host)

    def _scheduled(self, experiment: str) -> list[Any]:
        found: list[Any] = []
        token = ""
        while True:
            page = self._client.list_recurring_runs(page_token=token, page_size=100, experiment_id=experiment)
            found += page.recurring_runs or []
            token = page.next_page_token or ""
            if not token:
                return found

    def run(self, kfp_run: str) -> Any:
        """A run as KFP has it.

        Raises:
            NotFoundError: KFP has no such run.
            UnavailableError: KFP does not answer.
        """
        return _call(lambda: self._client.get_run(kfp_run), f"KFP run {kfp_run}")


def _health(host: str, token: str) -> dict[str, Any]:
    url = f"{host.rstrip('/')}/apis/v2beta1/healthz"
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:  # noqa: S310 - http or https, checked
            found = orjson.loads(answer.read())
    except urllib.error.HTTPError as error:
        raise _refusal(error.code, str(error.reason), url) from error
    except (OSError, orjson.JSONDecodeError) as error:
        raise UnavailableError(f"KFP does not answer: {error}.", where=url, fix=_REACH) from error
    return found if isinstance(found, dict) else {}


def _call(ask: Callable[[], T], where: str) -> T:
    import kfp_server_api  # type: ignore[import-untyped]
    from urllib3.exceptions import HTTPError

    try:
        # The client prints addresses, into what may be JSON.
        with contextlib.redirect_stdout(io.StringIO()):
            return ask()
    except kfp_server_api.ApiException as error:
        raise _refusal(int(error.status or 0), _message(error.body) or str(error.reason), where) from error
    except (HTTPError, OSError) as error:
        raise UnavailableError(f"KFP does not answer: {error}.", where=where, fix=_REACH) from error


def _refusal(status: int, message: str, where: str) -> FastTrackError:
    match status:
        case 401:
            return AuthenticationError(
                "KFP does not know you.", where=where, fix="Give --token, or FASTTRACK_KFP_TOKEN."
            )
        case 403:
            return AuthorizationError(
                f"KFP does not permit it: {message}", where=where, fix="Ask for access to the namespace."
            )
        case 404:
            return NotFoundError(f"KFP has no such thing: {message}", where=where, fix=_REACH)
        case 400 | 409 | 422:
            return ConfigurationError(f"KFP refuses it: {message}", where=where, fix="Mend what it names.")
        case 500:
            # So it says of a pipeline that it can't make a Workflow of, too.
            return UnavailableError(f"KFP failed: {message}", where=where, fix=_LOG)
    return UnavailableError(f"KFP does not answer ({status}): {message}", where=where, fix=_REACH)


def _message(body: Any) -> str:
    try:
        return str(orjson.loads(body or b"{}").get("message") or "")
    except (orjson.JSONDecodeError, AttributeError):
        return str(body or "")[:300]
