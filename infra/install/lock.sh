#!/usr/bin/env bash
# Writes the versions that a fresh installation gets today: constraints.txt from a
# real CPU installation, constraints-gpu.txt from resolving the GPU one, and with hashes
# infra/image/requirements-*.txt from both, without what only developers need.
#
#   infra/install/lock.sh SCRATCH [PYTHON]
#
#   SCRATCH  directory for the throw-away virtual environment
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
REPOSITORY=$(cd "$HERE/../.." && pwd)

# Keeps `name==version` lines alone: editable installs and local files are of one
# machine; pip and uv are the installers' own; a local version part (+cpu) names
# a build, not a version.
exact_versions() {
    grep -E '^[A-Za-z0-9._-]+==' | grep -vE '^(pip|uv)==' | sed -E 's/\+[a-z0-9.]+$//'
}

write_cpu() { # uv, interpreter
    printf '%s\n' \
        '# The versions that Coterie is tested with on CPU. Made by `make lock`.' \
        '# `torch==X` holds for the registry build X and for the CPU build X+cpu.'
    "$1" pip freeze --python "$2" | exact_versions
}

write_gpu() { # uv, interpreter
    printf '%s\n' '# The versions that the GPU installation resolves to. Made by `make lock`.'
    "$1" pip compile --quiet --no-header --no-annotate --python "$2" --extra gpu --extra dev \
        --override "$HERE/overrides-gpu.txt" "$REPOSITORY/pyproject.toml" | exact_versions
}

# For the image's Python and machine, whatever this one is.
hashed() { # uv, what uv is told besides
    "$1" pip compile --quiet --no-header --no-annotate --generate-hashes \
        --python-version 3.11 --python-platform x86_64-manylinux_2_35 "${@:2}"
}

write_image() { # uv, device, suffix of its files
    local wheels=()
    if [ "$2" = cpu ]; then
        wheels=(--find-links "${PIP_FIND_LINKS:-https://download.pytorch.org/whl/cpu/torch/}")
    fi
    hashed "$1" --extra "$2" --override "$HERE/overrides$3.txt" \
        --constraint "$HERE/constraints$3.txt" "${wheels[@]}" "$REPOSITORY/pyproject.toml"
}

main() {
    local scratch=${1:?usage: lock.sh SCRATCH [PYTHON]} tools image=$HERE/../image
    rm -rf "$scratch"
    COTERIE_UNLOCKED=1 "$HERE/install.sh" "$scratch" "${2:-python3}" cpu
    tools=("$scratch/bin/uv" "$scratch/bin/python")
    write_cpu "${tools[@]}" >"$scratch/constraints.txt"
    write_gpu "${tools[@]}" >"$scratch/constraints-gpu.txt"
    mv "$scratch/constraints.txt" "$scratch/constraints-gpu.txt" "$HERE/"
    write_image "${tools[0]}" cpu '' >"$image/requirements-cpu.txt"
    write_image "${tools[0]}" gpu -gpu >"$image/requirements-gpu.txt"
    hashed "${tools[0]}" - <<<"uv==$("${tools[0]}" --version | cut -d' ' -f2)" \
        >"$image/requirements-uv.txt"
    rm -rf "$scratch"
}

main "$@"
