"""Ports that stay a server's own while it is down."""

import random
import socket
from pathlib import Path

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST = 10_000


class ReservedPort:
    """A free TCP port of 127.0.0.1, which no other of these takes until it is closed.

    It is below those that the kernel gives to outgoing connections: a client that keeps trying to
    reach a dead server could be given the server's own port, and be connected to itself.
    """

    def __init__(self) -> None:
        lowest_outgoing = int(_RANGE.read_text().split()[0])
        candidates = list(range(_LOWEST, max(lowest_outgoing, _LOWEST + 1_000)))
        random.shuffle(candidates)
        for number in candidates:
            # A name in the kernel, which ends with the process that holds it.
            held = socket.socket(socket.AF_UNIX)
            try:
                held.bind(f"\0tidemill-port-{number}")
                _try(number)
            except OSError:
                held.close()
            else:
                self.number = number
                self._held = held
                return
        raise OSError("no port is free")

    def close(self) -> None:
        """Others may take it."""
        self._held.close()


def _try(number: int) -> None:
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tried.bind(("127.0.0.1", number))
