"""A JSON API, page by page, asked again and again for what is new."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import time
from collections.abc import Iterable, Mapping
from typing import Any

from fasttrack.errors import ConfigurationError, DataLossError, DataQualityError, FastTrackError, UnavailableError
from fasttrack.ingest.sources.answers import Answer, Answers, PutOff, Refused, shown
from fasttrack.ingest.sources.message import found, lookup
from fasttrack.ingest.sources.source import Batch, Failure, Position, Record
from fasttrack.progress import note
from fasttrack.usecase import UseCase
from fasttrack.usecase.sources import RestSource

_HASH_BYTES = 12
_NAP_SECONDS = 0.2
# Where a server doesn't say for how long it wants to be left alone: the first wait, and the longest.
_SHORTEST_WAIT_SECONDS = 1.0
_LONGEST_WAIT_SECONDS = 300.0

#: How many records are remembered: of a page where there is a cursor, else of the whole list; twice, while the next one
#: is read. That is 800 kB of a checkpoint, below the megabyte that Kafka takes by default.
MOST = 25_000


class RestReader:
    """Reads pages.

    A record is new if no record with the same values was there before: in the page that the cursor stands at or the
    one before it, so that a page may begin with what the last one ended with; or, for an API without a cursor, in the
    whole list. A record that changes is sent again, as a new one.

    Position: the cursor, the page's ETag, and the hashes of the records that are remembered.

    Args:
        usecase: not looked at.
        name: the source's.
        source: its declaration.
        environment: holds the token.

    Raises:
        ConfigurationError: the token's variable is not set.
    """

    def __init__(self, usecase: UseCase, name: str, source: RestSource, environment: Mapping[str, str]) -> None:
        self._name, self._source = name, source
        token = environment.get(source.token_env) if source.token_env else None
        if source.token_env and not token:
            raise ConfigurationError(
                f"{source.token_env} is not set.", where=f"source {name}", fix="Put the token there."
            )
        self._token = token
        self._answers: Answers | None = None
        self._cursor: str | None = None
        self._etag: str | None = None
        # What was sent: dicts, as they keep their order.
        self._before: dict[bytes, None] = {}
        self._now: dict[bytes, None] = {}
        self._page: str | None = None
        self._visited: set[str] = set()
        self._due = float("-inf")
        # Since when it has been asking to come later, and how often it did.
        self._put_off: float | None = None
        self._refusals = 0
        self._failures: list[Failure] = []

    def open(self, position: Position | None) -> None:
        """As `Source.open`; nothing is asked yet."""
        place = position or {}
        same = place.get("url", self._source.url) == self._source.url
        if not same:
            note(f"source {self._name}: `url` is another one, so it is read from its beginning")
            place = {}
        self._cursor, self._etag = place.get("cursor"), place.get("etag")
        raw = base64.b64decode(place.get("sent", ""))
        self._before = {raw[at : at + _HASH_BYTES]: None for at in range(0, len(raw), _HASH_BYTES)}
        self._now, self._page, self._visited = {}, None, set()
        self._due, self._put_off, self._refusals = float("-inf"), None, 0
        self.close()
        self._answers = Answers(self._source.url, self._token, self._source.timeout.total_seconds())

    def read(self, seconds: float) -> Batch | None:
        """As `Source.read`; one page."""
        deadline = time.monotonic() + seconds
        while True:
            if time.monotonic() >= self._due:
                try:
                    batch = self._ask()
                except PutOff as later:
                    self._wait(later)
                    batch = None
                if batch is not None:
                    return batch
            left = min(self._due, deadline) - time.monotonic()
            if time.monotonic() >= deadline:
                return None
            time.sleep(min(_NAP_SECONDS, max(0.0, left)))

    def committed(self, position: Position) -> None:
        """An API isn't told."""

    def lag(self) -> float | None:
        """An API doesn't tell."""
        return None

    def waiting(self) -> bool:
        """Whether the server has asked to come later, or a list was not read to its last page yet."""
        return self._put_off is not None or self._page is not None

    def failures(self) -> list[Failure]:
        """Each time that the server asked to come later."""
        told, self._failures = self._failures, []
        return told

    def broken(self) -> Mapping[str, str]:
        """Nothing: an answer that can't be read is asked for again."""
        return {}

    def close(self) -> None:
        """As `Source.close`."""
        if self._answers is not None:
            self._answers.close()
            self._answers = None

    def _wait(self, later: PutOff) -> None:
        now = time.monotonic()
        if self._put_off is None:
            note(f"source {self._name}: {later}")
            self._put_off = now
        self._failures.append(Failure(later, now - self._put_off))
        # It may say nothing, or zero, and then it still wants to be asked less often. Some of it by chance, so that
        # many who were refused together don't come back together.
        longest = min(_LONGEST_WAIT_SECONDS, _SHORTEST_WAIT_SECONDS * 2.0 ** min(self._refusals, 20))
        self._refusals += 1
        self._due = now + max(later.seconds * random.uniform(1.0, 1.1), random.uniform(longest / 2, longest))

    def _ask(self) -> Batch | None:
        """One page; None if it holds nothing new and the position is the one before."""
        assert self._answers is not None
        url, parameters = self._page or self._source.url, {}
        if self._source.cursor is not None and self._cursor is not None:
            parameters = {self._source.cursor_parameter: self._cursor}
        try:
            answer = self._answers.get(url, parameters, self._etag if self._page is None else None)
        except Refused as error:
            raise self._refused(error) from error
        self._put_off, self._refusals = None, 0
        if answer.status == 304:
            self._rest()
            return None
        records = self._new(() if answer.status == 204 else self._list(answer))
        cursor = self._cursor
        if self._turn(answer):
            self._rest()
        return Batch(records, self._position()) if records or self._cursor != cursor else None

    def _refused(self, error: Refused) -> FastTrackError:
        """What it means: an API may keep places in its list for some time only."""
        if self._page is not None and error.code in (404, 410):
            # What was read of the list is remembered.
            return UnavailableError(
                f"no longer has a page of its list (status {error.code}).", where=error.where,
                fix="The list is read again from its first page.",
            )  # fmt: skip
        if self._cursor is None or error.code not in (400, 404, 410, 422):
            return error
        anew = (
            "give the source another name: it is read from the beginning, and the drain knows what it has by event ids."
        )
        if error.code == 410:
            return DataLossError(
                f"no longer knows the cursor {self._cursor[:60]!r} (status 410).", where=error.where,
                fix=anew.capitalize(),
            )  # fmt: skip
        return ConfigurationError(
            error.what,
            where=error.where,
            fix=f"{error.fix} If it no longer knows the cursor {self._cursor[:60]!r}, {anew}",
        )

    def _rest(self) -> None:
        self._due = time.monotonic() + self._source.poll.total_seconds()
        self._visited.clear()

    def _list(self, answer: Answer) -> list[Any]:
        document = lookup(answer.document, self._source.records) if self._source.records else answer.document
        if isinstance(document, list):
            return document
        there = ", ".join(answer.document) if isinstance(answer.document, dict) else type(answer.document).__name__
        raise ConfigurationError(
            f"has no list at {self._source.records!r}; there is: {there}." if self._source.records
            else f"the answer is no list; there is: {there}.",
            where=f"source {self._name}, {shown(self._source.url)}", fix="Mend the source's `records`.",
        )  # fmt: skip

    def _new(self, items: Iterable[Any]) -> list[Record]:
        """The records that weren't there before."""
        records = []
        for item in items:
            text = json.dumps(item, sort_keys=True).encode()
            digest = hashlib.blake2b(text, digest_size=_HASH_BYTES).digest()
            if digest not in self._before and digest not in self._now:
                fields = item if isinstance(item, dict) else None
                records.append(Record(self._identity(item, digest), fields, None if fields is not None else text))
            self._now[digest] = None
        if len(self._now) > MOST:
            raise DataQualityError(
                f"has more than {MOST:,} records in one {'page' if self._source.cursor else 'list without a cursor'}: "
                "which of them are new can't be remembered.",
                where=f"source {self._name}, {shown(self._source.url)}",
                fix="Ask for smaller pages." if self._source.cursor else "Declare its `cursor`, or narrow the `url`.",
            )  # fmt: skip
        return records

    def _identity(self, item: Any, digest: bytes) -> str:
        """The declared fields' values, and the content: what changes is another record."""
        values = [lookup(item, path) for path in self._source.identity]
        return ",".join([*(str(value) for value in values if found(value)), digest.hex()])

    def _turn(self, answer: Answer) -> bool:
        """Go to the next page; true if this was the last one."""
        if self._source.cursor is not None:
            cursor = lookup(answer.document, self._source.cursor)
            following = str(cursor) if found(cursor) and cursor not in (None, "", False) else None
            if following is None or following == self._cursor:
                # It stays here: what is added appears on this page, or behind it.
                self._etag, self._before, self._now = answer.etag, self._now or self._before, {}
                return True
            self._visit(following)
            # Many cursors are a time, "from here on": what the next page begins with was on this one.
            self._cursor, self._etag, self._before, self._now = following, None, self._now or self._before, {}
            return False
        if answer.next is not None and answer.next != self._page:
            self._visit(answer.next)
            # The first page's ETag says nothing about the others.
            self._page, self._etag = answer.next, None
            return False
        self._etag = answer.etag if self._page is None else None
        self._page, self._before, self._now = None, self._now, {}
        return True

    def _visit(self, page: str) -> None:
        if page in self._visited:
            raise DataQualityError(
                "its pages go round in a circle.", where=f"source {self._name}, {shown(self._source.url)}",
                fix="Check `cursor` and `cursor_parameter`.",
            )  # fmt: skip
        self._visited.add(page)

    def _position(self) -> Position:
        sent = base64.b64encode(b"".join(self._before | self._now)).decode()
        return {"url": self._source.url, "cursor": self._cursor, "etag": self._etag, "sent": sent}
