"""The process that keeps an embedded metadata server running.

`python -m deployments.metadata_keeper SOCKET COMMAND...` starts the command, which is to
listen on the Unix socket, and starts it again when it dies or its socket is taken away.
SIGTERM ends both. It imports nothing but the standard library: it lives as long as the
cluster, and takes a few megabytes.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

_CHECK_S = 0.5
_STOP_S = 5.0
# A server that dies at once is not started again and again without a pause.
_FIRST_PAUSE_S, _LAST_PAUSE_S = 0.1, 5.0
_STEADY_S = 10.0


class Keeper:
    """Starts the server whenever it is not there, until told to stop."""

    def __init__(self, socket: Path, command: list[str]) -> None:
        self._socket = socket
        self._command = command
        self._is_stopping = False

    def stop(self, signum: int, frame: FrameType | None) -> None:
        """A signal's handler."""
        del signum, frame
        self._is_stopping = True

    def run(self) -> None:
        """Until a signal."""
        pause_s = _FIRST_PAUSE_S
        while not self._is_stopping:
            started_at = time.monotonic()
            server = subprocess.Popen(self._command, stdin=subprocess.DEVNULL)
            self._watch(server, started_at)
            _end(server)
            if time.monotonic() - started_at > _STEADY_S:
                pause_s = _FIRST_PAUSE_S
            if not self._is_stopping:
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, _LAST_PAUSE_S)

    def _watch(self, server: "subprocess.Popen[bytes]", started_at: float) -> None:
        """Until it has died, cannot be reached, or is to end."""
        while not self._is_stopping and server.poll() is None:
            is_up = time.monotonic() - started_at > _STEADY_S
            if is_up and not self._socket.exists():
                return
            time.sleep(_CHECK_S)


def _end(server: "subprocess.Popen[bytes]") -> None:
    if server.poll() is None:
        server.terminate()
        try:
            server.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            server.kill()
    server.wait()


def main() -> None:
    """From the command line."""
    keeper = Keeper(Path(sys.argv[1]), sys.argv[2:])
    signal.signal(signal.SIGTERM, keeper.stop)
    # Ctrl-C in the terminal of `coterie up` is not meant for the server.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.umask(0o077)
    keeper.run()


if __name__ == "__main__":
    main()
