"""A client of the API gateway, on the standard library alone."""

from __future__ import annotations

import json
import shlex
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

from fasttrack import errors

_BY_STATUS: dict[int, type[errors.FastTrackError]] = {
    400: errors.InvalidRequestError,
    401: errors.AuthenticationError,
    403: errors.AuthorizationError,
    404: errors.NotFoundError,
    409: errors.ConflictError,
    422: errors.InvalidRequestError,
    429: errors.RateLimitError,
    502: errors.UnavailableError,
    503: errors.UnavailableError,
    504: errors.DeadlineError,
}


@dataclass(frozen=True)
class Gateway:
    """The gateway at `url`, called with the bearer `token`; `timeout` is in seconds."""

    url: str
    token: str
    timeout: float = 30.0

    def predict(self, usecase: str, body: dict[str, Any]) -> dict[str, Any]:
        """``POST /v1/usecases/{usecase}/predict``: the answer as the gateway gave it.

        Args:
            usecase: name of the use case.
            body: ``{"entity": {...}}`` or ``{"features": {...}}``, with ``"explain"`` if wanted.

        Raises:
            FastTrackError: the class that fits the status; the gateway's problem detail is its text.
        """
        return self._call(f"/v1/usecases/{usecase}/predict", body)

    def explain(self, usecase: str, body: dict[str, Any]) -> dict[str, Any]:
        """``POST /v1/usecases/{usecase}/explain``; raises as `predict` does."""
        return self._call(f"/v1/usecases/{usecase}/explain", body)

    def rollout(self, usecase: str) -> dict[str, Any]:
        """``GET /v1/usecases/{usecase}/rollout``: the newest rollout; raises as `predict` does."""
        return self._call(f"/v1/usecases/{usecase}/rollout", None)

    def start_rollout(self, usecase: str, body: dict[str, Any]) -> dict[str, Any]:
        """``POST /v1/usecases/{usecase}/rollout``: begin one; raises as `predict` does."""
        return self._call(f"/v1/usecases/{usecase}/rollout", body)

    def end_rollout(self, usecase: str, verb: str, why: str) -> dict[str, Any]:
        """``POST /v1/usecases/{usecase}/rollout/{verb}``, promote or abort; raises as `predict` does."""
        return self._call(f"/v1/usecases/{usecase}/rollout/{verb}", {"why": why})

    def curl(self, usecase: str, body: dict[str, Any], token: str | None = None) -> str:
        """The command line that repeats a prediction; `token` stands in for the real one, if given."""
        words = [
            "curl", "-sS", f"{self.url}/v1/usecases/{usecase}/predict",
            "-H", f"Authorization: Bearer {token or self.token}",
            "-H", "Content-Type: application/json",
            "-d", json.dumps(body),
        ]  # fmt: skip
        return " ".join(shlex.quote(word) for word in words)

    def _call(self, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        if not self.url.startswith(("http://", "https://")):
            raise errors.ConfigurationError(f"{self.url!r} is not an http(s) URL.", fix="Set FASTTRACK_GATEWAY.")
        request = urllib.request.Request(  # noqa: S310 - the scheme is checked above
            self.url + path,
            data=None if body is None else json.dumps(body, allow_nan=False).encode(),
            headers={"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as answer:  # noqa: S310
                found: dict[str, Any] = json.load(answer)
                return found
        except urllib.error.HTTPError as error:
            raise _problem(error, self.url + path) from error
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            reason = getattr(error, "reason", error)
            kind = errors.DeadlineError if isinstance(reason, TimeoutError) else errors.UnavailableError
            raise kind(
                f"the gateway does not answer: {reason}.",
                where=self.url,
                fix="Is the platform up? See `fasttrack status`.",
            ) from error


def _problem(error: urllib.error.HTTPError, url: str) -> errors.FastTrackError:
    """The problem details (RFC 9457) of an answer, as one of our errors."""
    try:
        problem = json.loads(error.read())
        what = str(problem.get("detail") or problem.get("title") or error.reason)
    except (ValueError, AttributeError):
        what = f"HTTP {error.code} {error.reason}"
    return _BY_STATUS.get(error.code, errors.FastTrackError)(what, where=url)
