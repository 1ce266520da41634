"""Requests to an API server, repeated while it does not answer."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import orjson

from fasttrack.errors import UnavailableError
from fasttrack.kubeflow.cluster.refusals import refusal

_TIMEOUT = (5.0, 30.0)
_PAUSES = (0.2, 0.5, 1.0, 2.0)


class Transport:
    """Sends requests by way of the kubernetes package's `ApiClient`.

    Attributes:
        host: URL of the API server.
    """

    def __init__(self, api: Any, patience: float) -> None:
        self._api = api
        self._patience = patience
        self.host: str = api.configuration.host

    def request(
        self,
        method: str,
        path: str,
        *,
        where: str,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content: str = "",
    ) -> Any:
        """One request, repeated while the API server does not answer; see `connect`."""
        ends = time.monotonic() + self._patience
        pauses = iter(_PAUSES)
        while True:
            try:
                answer = self.send(method, path, query=query, body=body, content=content, where=where)
                return orjson.loads(answer.data)
            except UnavailableError:
                pause = next(pauses, _PAUSES[-1])
                if time.monotonic() + pause > ends:
                    raise
                time.sleep(pause)

    def send(
        self,
        method: str,
        path: str,
        *,
        where: str,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content: str = "",
        stream: bool = False,
        timeout: tuple[float, float] = _TIMEOUT,
    ) -> Any:
        """One request, once; the HTTP response, not read yet with `stream`.

        Raises:
            FastTrackError: of the kind that `fasttrack.kubeflow.cluster.refusals.refusal` finds.
        """
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        headers = {"Accept": "application/json", "Content-Type": content or "application/json"}
        try:
            response, _, _ = self._api.call_api(
                path,
                method,
                query_params=[(name, value) for name, value in (query or {}).items() if value],
                header_params=headers,
                body=body,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _request_timeout=timeout,
            )
            if not stream:
                # Reads the body; a connection that breaks in the middle is told here.
                _ = response.data
        except ApiException as error:
            raise refusal(int(error.status or 0), error.body or error.reason or "", where) from error
        except (HTTPError, OSError) as error:
            raise refusal(0, str(error), where) from error
        return response
