"""What `coterie status --json` prints, once for each empty line that comes in; for any
other line what `coterie explain LINE --json` prints.

    python -m tests.builders.status_program FILE

The commands import Ray and connect each time: three seconds of a core, which a test
that waits for engines to start takes from them.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from coterie.config import load_config
from deployments import local_cluster


def main() -> None:
    section = load_config(Path(sys.argv[1])).cluster
    local_cluster.use_auth_token(section)
    # Ray must be imported after use_auth_token.
    from deployments import operate  # noqa: PLC0415

    def answer(request_id: str) -> list[dict[str, Any]]:
        if request_id:
            return operate.explain(section.app_name, request_id)
        states = operate.deployment_states(section.app_name, with_details=True)
        return [asdict(state) for state in states]

    answers = sys.stdout
    with operate.connected(section):
        for line in sys.stdin:
            print(json.dumps(answer(line.strip())), file=answers, flush=True)


if __name__ == "__main__":
    main()
