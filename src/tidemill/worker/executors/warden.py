"""Forks slot processes for a worker, and ends what a dead one leaves behind.

The worker is large and has threads; this process is small and has none, so that a fork of it is
cheap and safe. It lives in a session of its own and ends when the worker's end of the connection
closes and its last slot is gone.

Started as `python -m tidemill.worker.executors.warden DESCRIPTOR DIRECTORY`. One datagram in is
the number of a new slot, with one or two descriptors: the slot's connection, and one to hand on to
its child. One datagram out is the number of a slot that is gone with all of its tree; with an errno
behind it, of one that could not be forked.
"""

import contextlib
import os
import selectors
import signal
import socket
import sys
from typing import NoReturn

from tidemill.worker.executors.process_tree import become_subreaper, children_of, signal_all
from tidemill.worker.executors.slot_process import serve_slot

_SWEEP_SECONDS = 0.005  # between looks at orphans that were killed and are not yet gone
_PATIENCE_ROUNDS = 2_000  # sweeps after the worker's death before slots are killed as well


def main() -> None:
    """Serve until the worker hangs up and nothing is left."""
    connection = socket.socket(fileno=int(sys.argv[1]))
    become_subreaper()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _Warden(connection, sys.argv[2]).serve()


class _Warden:
    def __init__(self, connection: socket.socket, directory: str) -> None:
        self._connection = connection
        self._directory = directory
        self._slots: dict[int, int] = {}  # process → number
        self._gone: list[str] = []  # to be told when no orphan is left
        self._selector = selectors.DefaultSelector()
        self._selector.register(connection, selectors.EVENT_READ, "connection")
        self._woken, wake = socket.socketpair()
        for end in (self._woken, wake):
            end.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ, "child")
        self._wake = wake
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)

    def serve(self) -> None:
        while True:
            for key, _ in self._selector.select(_SWEEP_SECONDS if self._gone else None):
                if key.data == "child":
                    self._woken.recv(4096)
                elif not self._heed():
                    self._end()
                    return
            self._look_after_children()

    def _heed(self) -> bool:
        """Fork a slot as asked; False once the worker is gone."""
        try:
            data, descriptors, _, _ = socket.recv_fds(self._connection, 64, 2)
        except ConnectionError:
            return False
        if not data:
            return False
        number = int(data)
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)  # a task must not speak for its slot
        try:
            pid = os.fork()
        except OSError as error:  # no room for another process; what runs goes on
            self._gone.append(f"{number} {error.errno}")
        else:
            if pid == 0:
                self._become_slot(number, descriptors)
            self._slots[pid] = number
        for descriptor in descriptors:
            os.close(descriptor)
        return True

    def _become_slot(self, number: int, descriptors: list[int]) -> NoReturn:
        try:
            signal.set_wakeup_fd(-1)
            self._selector.close()
            for end in (self._connection, self._woken, self._wake):
                end.close()
            channel = descriptors[1] if len(descriptors) > 1 else None
            results = os.path.join(self._directory, f"result-{number}")
            serve_slot(socket.socket(fileno=descriptors[0]), channel, results)
        finally:
            os._exit(1)

    def _look_after_children(self) -> None:
        self._reap()
        if not self._gone:
            return
        orphans = [pid for pid in children_of(os.getpid()) if pid not in self._slots]
        signal_all(orphans, signal.SIGKILL)
        if not orphans:
            for told in self._gone:
                with contextlib.suppress(ConnectionError):
                    self._connection.send(told.encode())
            self._gone.clear()

    def _reap(self) -> bool:
        """Note which slots ended; whether any child is left."""
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid in self._slots:
                self._gone.append(str(self._slots.pop(pid)))

    def _end(self) -> None:
        """The slots lost their worker too and kill their trees; wait until all are gone."""
        self._selector.unregister(self._connection)
        rounds = 0
        while self._reap():
            rounds += 1
            children = children_of(os.getpid())
            is_late = rounds > _PATIENCE_ROUNDS
            signal_all(
                [pid for pid in children if is_late or pid not in self._slots], signal.SIGKILL
            )
            self._selector.select(_SWEEP_SECONDS)
            self._drop_wakeups()

    def _drop_wakeups(self) -> None:
        try:
            self._woken.recv(4096)
        except BlockingIOError:
            return


if __name__ == "__main__":
    main()
