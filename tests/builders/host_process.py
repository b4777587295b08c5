"""A host of links, expert host or draft host, in a process of its own."""

import json
import os
import select
import signal
import subprocess
import sys
from typing import Any

from deployments.experts.waiting import WAITING_ENVIRONMENT
from experts.directory import HostCard

_LIMIT_S = 60.0


class HostProcess:
    """One that can be killed and stopped; ready when it is made."""

    def __init__(self, module: str, fields: dict[str, Any]) -> None:
        """`fields` are its settings, as `deployments.link_hosts.process` says."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ
            | {"OMP_NUM_THREADS": str(fields["num_threads"])}
            | WAITING_ENVIRONMENT,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(fields) + "\n")
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], _LIMIT_S)
        line = self.process.stdout.readline() if ready else ""
        if not line:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"{module} did not start")
        self.card = HostCard.of(json.loads(line))

    def close(self) -> None:
        """End it, also where it is stopped, and see that it ended well."""
        self.process.send_signal(signal.SIGCONT)
        self.process.communicate(timeout=_LIMIT_S)
        assert self.process.returncode == 0

    def kill(self) -> None:
        """As the kernel does when memory is short."""
        self.process.kill()
        self.process.communicate()
