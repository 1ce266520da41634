"""A sender of webhooks, written after Standard Webhooks, apart from the gateway's own code."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import json
import time
from contextlib import closing
from dataclasses import dataclass
from typing import Any

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_" + base64.b64encode(b"another secret of thirty bytes").decode()


def sign(secret: str, id: str, timestamp: int, body: bytes) -> str:
    """A ``v1`` signature."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    code = hmac.new(key, f"{id}.{timestamp}.".encode() + body, hashlib.sha256)
    return "v1," + base64.b64encode(code.digest()).decode()


def headers(id: str, body: bytes, *secrets: str, at: float | None = None) -> dict[str, str]:
    """The headers of a delivery, signed with each of the secrets."""
    timestamp = int(time.time() if at is None else at)
    signatures = " ".join(sign(secret, id, timestamp, body) for secret in secrets or (SECRET,))
    return {
        "Content-Type": "application/json",
        "webhook-id": id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signatures,
    }


@dataclass(frozen=True)
class Sender:
    """Sends to one webhook of a gateway on the loopback address."""

    port: int
    path: str

    def send(self, id: str, document: Any) -> tuple[int, dict[str, str], Any]:
        """One delivery: status, headers and body of the answer.

        Raises:
            OSError, HTTPException: there was none.
        """
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=40)) as connection:
            connection.request("POST", self.path, body, headers(id, body))
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, json.loads(answer.read())
