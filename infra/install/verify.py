"""Says whether an installation is what its device needs, from metadata alone.

`python verify.py cpu` ends with status 1 and names what is wrong if CUDA
builds came along: they weigh gigabytes and break `import transformers` beside
a CPU torch. Nothing heavy is imported; it takes a fraction of a second.
"""

import re
import runpy
import sys
from collections.abc import Iterable
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path

CUDA_ONLY = re.compile(
    r"nvidia-.*|cuda-.*|triton|torchvision|torchaudio|torchcodec|.*-cu1[0-9]"
)
"""Names of distributions that have no place beside a CPU torch."""


def intruders(names: Iterable[str]) -> list[str]:
    """Those of the distributions that a CPU installation must not have, sorted."""
    return sorted(name for name in names if CUDA_ONLY.fullmatch(name.lower()))


def torch_cuda_version() -> str | None:
    """CUDA version that the installed torch was built for; None for a CPU build.

    Raises:
        SystemExit: torch is not installed.
    """
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        raise SystemExit("setup: torch is not installed")
    version = runpy.run_path(str(Path(spec.origin).with_name("version.py")))["cuda"]
    return None if version is None else str(version)


def main(device: str) -> None:
    """Check the environment that runs this."""
    cuda = torch_cuda_version()
    if device == "gpu":
        return
    if cuda is not None:
        raise SystemExit(
            f"setup: torch was built for CUDA {cuda}, not for CPU; remove the virtual "
            "environment and run this again with PIP_FIND_LINKS unset, or set to a place "
            "that has a `+cpu` wheel of torch"
        )
    if found := intruders(dist.metadata["Name"] for dist in distributions()):
        raise SystemExit(
            f"setup: CUDA packages were installed: {', '.join(found)}; "
            "name them in infra/install/overrides.txt"
        )


if __name__ == "__main__":
    main(sys.argv[1])
