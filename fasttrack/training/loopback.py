"""``python -m fasttrack.training.loopback``: torchrun for one machine, whose store listens on 127.0.0.1 only.

torchrun's own rendezvous backends listen on every interface, and none can be told otherwise.
"""

from __future__ import annotations

import socket
import sys
from typing import Any

from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.elastic.rendezvous import RendezvousParameters, rendezvous_handler_registry
from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import StaticTCPRendezvous
from torch.distributed.run import main

#: The name for ``--rdzv-backend``.
BACKEND = "loopback"
_HOST = "127.0.0.1"
_SECONDS = 600


class Loopback(StaticTCPRendezvous):
    """One node, and a store on a port that the system chooses; the workers share it."""

    def get_backend(self) -> str:
        """The name of this backend."""
        return BACKEND

    def next_rendezvous(self) -> Any:
        """Make the store before the first use, on a socket of our own."""
        if self._store is None:
            listener = socket.create_server((_HOST, 0))
            self.master_port = listener.getsockname()[1]
            self._store = TCPStore(
                self.master_addr,
                self.master_port,
                self.world_size,
                True,
                self.timeout,
                multi_tenant=False,
                master_listen_fd=listener.detach(),
            )
        return super().next_rendezvous()


def _make(parameters: RendezvousParameters) -> Loopback:
    return Loopback(_HOST, 0, 0, 1, parameters.run_id, _SECONDS)


rendezvous_handler_registry.register(BACKEND, _make)

if __name__ == "__main__":
    main(sys.argv[1:])
