"""GET requests of a REST source: one JSON answer, with all that can be wrong about it told apart."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NoReturn

import httpx

from fasttrack.errors import ConfigurationError, DataQualityError, RateLimitError, UnavailableError

#: The largest answer that is read.
MOST_BYTES = 64 * 2**20
_MOST_REDIRECTS = 5
_LONGEST_WAIT_SECONDS = 3600.0
_PASSING = frozenset({408, 425, 500, 502, 503, 504})
_EMPTY = frozenset({204, 205})


@dataclass(frozen=True)
class Answer:
    """What a server said.

    Attributes:
        document: the JSON value; None if there is none.
        status: 304 if nothing has changed, 204 if there is nothing.
        etag: names this state of the page.
        next: the address of the next page, from the ``Link`` header.
    """

    document: Any
    etag: str | None
    next: str | None
    status: int = 200


class Refused(ConfigurationError):
    """The server says that it won't answer this request.

    Attributes:
        code: the HTTP status.
    """

    def __init__(self, code: int, *, where: str) -> None:
        super().__init__(
            f"answers with status {code}.", where=where, fix="Check the source's `url` and the token's rights."
        )
        self.code = code


class PutOff(RateLimitError):
    """The server asks to come back later.

    Attributes:
        seconds: how much later at least; 0 if it doesn't say.
    """

    def __init__(self, what: str, *, seconds: float, where: str) -> None:
        super().__init__(what, where=where, fix="Ask its owner for a higher limit, or raise `poll`.")
        self.seconds = seconds


class Answers:
    """A client for one API.

    Args:
        first: the address whose server may be sent the token.
        token: the bearer token, if any.
        seconds: how long a whole answer may take.
    """

    def __init__(self, first: str, token: str | None, seconds: float) -> None:
        self._home, self._token, self._seconds = httpx.URL(first), token, seconds
        self._client = httpx.Client(timeout=seconds, headers={"Accept": "application/json", "User-Agent": "fasttrack"})

    def get(self, url: str, parameters: Mapping[str, str], etag: str | None) -> Answer:
        """Ask for a page.

        Raises:
            PutOff: 429, or 503 with the time to wait.
            UnavailableError: no answer, not in time, or one that is not JSON; asking again may help.
            Refused: the server refuses the request; asking again won't help.
            ConfigurationError: the server leads elsewhere; asking again won't help.
            DataQualityError: the answer is larger than is read.
        """
        address = httpx.URL(url)
        if parameters:
            address = address.copy_merge_params(dict(parameters))
        for _ in range(_MOST_REDIRECTS + 1):
            found = self._ask(address, etag)
            if isinstance(found, Answer):
                return found
            address = found
        raise ConfigurationError("redirects again and again.", where=shown(url), fix="Check the source's `url`.")

    def close(self) -> None:
        """Close connections."""
        self._client.close()

    def _ask(self, address: httpx.URL, etag: str | None) -> Answer | httpx.URL:
        headers = {"If-None-Match": etag} if etag else {}
        if self._token:
            self._stay_home(address)
            headers["Authorization"] = f"Bearer {self._token}"
        where = shown(address)
        try:
            with self._client.stream("GET", address, headers=headers) as response:
                if response.has_redirect_location:
                    return address.join(response.headers["Location"])
                self._check(response, where)
                if response.status_code == 304:
                    return Answer(None, etag, None, 304)
                if response.status_code in _EMPTY:
                    return Answer(None, response.headers.get("ETag"), None, 204)
                body = self._read(response, where)
                follow = response.links.get("next", {}).get("url")
                return Answer(_parse(body, where), response.headers.get("ETag"), follow and str(address.join(follow)))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise UnavailableError(
                f"does not answer ({str(error) or type(error).__name__}).", where=where, fix="Check that it runs."
            ) from error

    def _stay_home(self, address: httpx.URL) -> None:
        """The token goes to the declared server only; from http to https there is allowed."""
        home = self._home
        same = (address.scheme, address.host, address.port) == (home.scheme, home.host, home.port)
        safer = address.host == home.host and (home.scheme, address.scheme) == ("http", "https")
        if not (same or safer):
            raise ConfigurationError(
                "leads to another server, which must not get the token.", where=shown(address),
                fix="Give its address as the source's `url` if it is to be trusted.",
            )  # fmt: skip

    def _check(self, response: httpx.Response, where: str) -> None:
        code = response.status_code
        wait = _retry_after(response.headers.get("Retry-After"), response.headers.get("Date"))
        if code == 429 or (code == 503 and wait is not None):
            raise PutOff(f"asks to wait (status {code}).", seconds=wait or 0.0, where=where)
        if code in _PASSING:
            raise UnavailableError(f"answers with status {code}.", where=where, fix="Look into the server's log.")
        if not response.is_success and code != 304:
            raise Refused(code, where=where)

    def _read(self, response: httpx.Response, where: str) -> bytes:
        body = bytearray()
        deadline = time.monotonic() + self._seconds
        for block in response.iter_bytes():
            body += block
            if len(body) > MOST_BYTES:
                raise DataQualityError(
                    f"the answer is larger than {MOST_BYTES:,} bytes.", where=where, fix="Ask for smaller pages."
                )
            # A server that sends a byte now and then is never late for httpx.
            if time.monotonic() > deadline:
                raise UnavailableError(
                    f"takes longer than {self._seconds:.0f} s to answer.", where=where, fix="Raise `timeout`."
                )
        return bytes(body)


def shown(url: str | httpx.URL) -> str:
    """An address without its parameters and password, which may be secrets."""
    address = httpx.URL(url)
    return str(address.copy_with(query=None, fragment=None, userinfo=b""))


def _parse(body: bytes, where: str) -> Any:
    try:
        # Not orjson: it rounds whole numbers beyond 64 bits.
        return json.loads(body, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise UnavailableError(
            f"the answer is not JSON ({error}): {body[:60]!r}.", where=where, fix="Look into the server's log."
        ) from error


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON value")


def _retry_after(text: str | None, date: str | None) -> float | None:
    """Seconds from now; None if the header isn't there or can't be read.

    Args:
        text: the header Retry-After.
        date: the header Date: the server's clock, by which a moment is meant; ours may differ.
    """
    if not text:
        return None
    try:
        if text.strip().isdigit():
            seconds = float(text)
        else:
            seconds = (_moment(text) - (_moment(date) if date else datetime.now(UTC))).total_seconds()
    except ValueError:
        return None
    return min(max(0.0, seconds), _LONGEST_WAIT_SECONDS)


def _moment(text: str) -> datetime:
    moment = parsedate_to_datetime(text)
    return moment.replace(tzinfo=moment.tzinfo or UTC)
