"""The one exception tree: every error says what is wrong, where, and what to do next."""

from __future__ import annotations


class FastTrackError(Exception):
    """Base of every error that FastTrack raises on purpose.

    Args:
        what: what is wrong, one sentence.
        where: the place: ``file:line``, a field path, a topic-partition-offset, a URL.
        fix: what the reader can do about it.
    """

    exit_code = 1
    #: HTTP status when the error reaches a server's edge (RFC 9457 problem details).
    status = 500
    title = "FastTrack error"

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.fix = fix

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        return f"{head} {self.fix}" if self.fix else head


def rebuild(kind: object, what: str, *, where: str | None = None, fix: str | None = None) -> FastTrackError | None:
    """The error that another process told of by the name of its class; None if the tree has no such class."""
    found = globals().get(str(kind))
    if not (isinstance(found, type) and issubclass(found, FastTrackError)):
        return None
    made: FastTrackError = found(what, where=where, fix=fix)
    return made


class UseCaseError(FastTrackError):
    """The use-case file is malformed, or refers to something that it does not define."""

    exit_code = 2
    status = 422
    title = "Invalid use case"


class ConfigurationError(FastTrackError):
    """A setting is missing or has a value that can't be used."""

    exit_code = 2
    title = "Invalid configuration"


class UnavailableError(FastTrackError):
    """A server (broker, database, cache, model server) does not answer."""

    exit_code = 3
    status = 503
    title = "Service unavailable"


class DeadlineError(UnavailableError):
    """A server is there, but did not answer in the time that the caller gives it."""

    status = 504
    title = "Deadline exceeded"


class IntegrityError(FastTrackError):
    """A digest, signature or checksum does not match: the thing was tampered with or is damaged."""

    exit_code = 4
    title = "Integrity check failed"


class DataLossError(FastTrackError):
    """Going on would lose or repeat data: offsets are gone, or a count does not add up."""

    exit_code = 5
    title = "Data would be lost"


class StorageError(FastTrackError):
    """The disk or object store refused a write or a read (full, read-only, missing)."""

    exit_code = 6
    status = 507
    title = "Storage failed"


class DataQualityError(FastTrackError):
    """Data breaks its contract or a quality threshold of the use case."""

    exit_code = 7
    status = 422
    title = "Data quality too low"


class GateError(FastTrackError):
    """No candidate passed the approval thresholds within the allowed rounds."""

    exit_code = 8
    title = "Model refused by the gate"


class ConflictError(FastTrackError):
    """Somebody else changed the same thing at the same time, or it already exists."""

    exit_code = 9
    status = 409
    title = "Conflict"


class NotFoundError(FastTrackError):
    """The named thing (use case, model version, flight) does not exist."""

    exit_code = 10
    status = 404
    title = "Not found"


class InvalidRequestError(FastTrackError):
    """A request to a server does not match the model's signature or the protocol."""

    exit_code = 11
    status = 400
    title = "Invalid request"


class AuthenticationError(FastTrackError):
    """No token, or one that is forged, expired or not for us."""

    exit_code = 12
    status = 401
    title = "Not authenticated"


class AuthorizationError(FastTrackError):
    """The token is good, but no role of it allows the route."""

    exit_code = 12
    status = 403
    title = "Not allowed"


class RateLimitError(FastTrackError):
    """The caller asked more often than its limit allows."""

    exit_code = 13
    status = 429
    title = "Too many requests"


class StepError(FastTrackError):
    """A pipeline step failed; the cause is chained."""

    exit_code = 14
    title = "Pipeline step failed"
