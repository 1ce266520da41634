"""uvicorn's server with a long goodbye: after SIGTERM it goes on answering for a moment, closing each connection."""

from __future__ import annotations

import signal
import time
from types import FrameType

import uvicorn

from api_gateway.parts import Parts


class Server(uvicorn.Server):
    """Ends without a failed request.

    A client that keeps a connection may send its next request just when the server closes it, and can't know whether
    that was heard. So, on the first signal, `/readyz` says 503 and every answer ends its connection; what listens is
    closed only when those who keep connections have had time to go elsewhere. A second signal ends it at once.

    Args:
        config: uvicorn's.
        parts: told that the server is leaving.
        seconds: how long that takes; 0: not at all.
    """

    def __init__(self, config: uvicorn.Config, parts: Parts, seconds: float) -> None:
        super().__init__(config)
        self._parts = parts
        self._seconds = seconds
        self._until: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to leave; at the second signal, or a Ctrl-C, go."""
        if self._until is None and self._seconds > 0 and sig != signal.SIGINT:
            self._until = time.monotonic() + self._seconds
            self._parts.leaving = True
        else:
            super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second."""
        if self._until is not None and time.monotonic() >= self._until:
            self.should_exit = True
        return await super().on_tick(counter)
