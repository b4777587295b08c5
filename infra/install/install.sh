#!/usr/bin/env bash
# Makes a virtual environment and installs Coterie with everything it is tested with.
#
#   infra/install/install.sh VENV [PYTHON [DEVICE]]
#
#   VENV     directory of the virtual environment; kept if it is there already
#   PYTHON   interpreter to make it with, 3.11 or 3.12   (default: python3)
#   DEVICE   cpu or gpu                                  (default: cpu)
#
# Environment:
#   PIP_FIND_LINKS, UV_FIND_LINKS   where the CPU wheel of torch lies. Without
#                                   them uv takes it from PyTorch's own index.
#   COTERIE_UNLOCKED=1              leave the constraints aside: `make lock`
set -euo pipefail

UV_VERSION=0.13.8
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
REPOSITORY=$(cd "$HERE/../.." && pwd)

say() { printf '==> %s\n' "$*" >&2; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

require_supported_python() { # interpreter, what to do otherwise
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null ||
        fail "$1 is $("$1" --version 2>&1 || true); Python 3.11 or 3.12 is needed. $2"
}

make_environment() { # venv, interpreter
    if [ -x "$1/bin/python" ]; then
        require_supported_python "$1/bin/python" "Remove $1 and run this again."
        return
    fi
    command -v "$2" >/dev/null ||
        fail "there is no $2; install Python 3.11 or 3.12, or name one: make setup PYTHON=/path/to/python3.12"
    require_supported_python "$2" "Name another: make setup PYTHON=python3.12"
    say "making a virtual environment in $1 with $("$2" --version)"
    "$2" -m venv "$1" ||
        fail "could not make the virtual environment; on Debian and Ubuntu: apt-get install python3-venv"
}

install_uv() { # venv
    case "$("$1/bin/uv" --version 2>/dev/null || true)" in
        "uv $UV_VERSION"*) return ;;
    esac
    say "installing uv $UV_VERSION"
    "$1/bin/python" -m pip --version >/dev/null 2>&1 || "$1/bin/python" -m ensurepip --upgrade
    "$1/bin/python" -m pip install --quiet --disable-pip-version-check "uv==$UV_VERSION"
}

adopt_pip_settings() {
    # uv does not read pip's settings; these two decide whether it gets anywhere.
    if [ -n "${PIP_INDEX_URL:-}" ]; then export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$PIP_INDEX_URL}"; fi
    if [ -n "${PIP_CERT:-}" ]; then export SSL_CERT_FILE="${SSL_CERT_FILE:-$PIP_CERT}"; fi
}

# Sets `options`: what `uv pip install` is told on top of the project itself.
choose_options() { # device
    local suffix
    case "$1" in
        cpu) suffix= ;;
        gpu) suffix=-gpu ;;
        *) fail "DEVICE is '$1'; it must be cpu or gpu" ;;
    esac
    options=(--override "$HERE/overrides$suffix.txt")
    if [ -z "${COTERIE_UNLOCKED:-}" ]; then options+=(--constraint "$HERE/constraints$suffix.txt"); fi
    local place
    for place in ${PIP_FIND_LINKS:-}; do options+=(--find-links "$place"); done
    if [ "$1" = gpu ]; then
        options+=(--torch-backend "${UV_TORCH_BACKEND:-auto}")
    elif [ -z "${PIP_FIND_LINKS:-}${UV_FIND_LINKS:-}" ]; then
        options+=(--torch-backend cpu)
    else
        say "looking for torch in ${PIP_FIND_LINKS:-}${PIP_FIND_LINKS:+ }${UV_FIND_LINKS:-}"
    fi
}

main() {
    local venv=${1:?usage: install.sh VENV [PYTHON [DEVICE]]} interpreter=${2:-python3} device=${3:-cpu}
    local options
    choose_options "$device"
    adopt_pip_settings
    make_environment "$venv" "$interpreter"
    install_uv "$venv"
    say "installing Coterie for $device (the first time downloads about 1 GB)"
    # Bytecode now, once: each of an engine's three processes would otherwise
    # compile thousands of modules at its start wherever caches cannot be written.
    "$venv/bin/uv" pip install --compile-bytecode --python "$venv/bin/python" "${options[@]}" \
        --editable "$REPOSITORY[$device,dev]"
    "$venv/bin/python" "$HERE/verify.py" "$device"
    # Numba keeps what it compiles: seconds, once, that no replica's start then takes.
    "$venv/bin/python" -c "import cache.token_ids, cache.usable_prefix"
    say "ready: $venv/bin/coterie"
}

main "$@"
