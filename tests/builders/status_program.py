"""What `coterie status --json` prints, once for each line that comes in.

    python -m tests.builders.status_program FILE

The command imports Ray and connects each time: three seconds of a core, which a test
that waits for engines to start takes from them.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from coterie.config import load_config
from deployments import local_cluster


def main() -> None:
    section = load_config(Path(sys.argv[1])).cluster
    local_cluster.use_auth_token(section)
    # Ray must be imported after use_auth_token.
    from deployments import operate  # noqa: PLC0415

    with operate.connected(section):
        for _ in sys.stdin:
            states = operate.deployment_states(section.app_name, with_details=True)
            print(json.dumps([asdict(state) for state in states]), flush=True)


if __name__ == "__main__":
    main()
