#!/usr/bin/env bash
# Makes the virtual environment of the programs in this folder, once, and prints its python.
#
#   PY=$(tests/python/setup.sh) && "$PY" tests/python/call.py --help
#
# LIGHTBUS_TEST_PYTHON_VENV   where it goes (default: the user's cache folder, one per content of
#                             requirements.txt)
# LIGHTBUS_TEST_PYTHON_BASE   the python to make it from (default: the newest of 3.9 to 3.13 found)
#
# Any number of tests may run this at once: one makes the environment, the others wait for it.
set -euo pipefail

requirements=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/requirements.txt
hash=$(sha256sum "$requirements" | head -c 12)
venv=${LIGHTBUS_TEST_PYTHON_VENV:-${XDG_CACHE_HOME:-$HOME/.cache}/lightbus/python-$hash}
# Written last, so that an environment whose making was interrupted is made again.
complete=$venv/.complete-$hash

fail() {
    echo "tests/python/setup.sh: $*" >&2
    exit 1
}

suits() {
    "$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 9) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
}

base_python() {
    local candidate
    for candidate in ${LIGHTBUS_TEST_PYTHON_BASE:-python3 python3.13 python3.12 python3.11 python3.10 python3.9}; do
        if suits "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    return 1
}

make_venv() {
    local base
    base=$(base_python) || fail "needs Python 3.9 to 3.13 with venv (Debian: apt-get install python3 python3-venv)"
    echo "tests/python/setup.sh: making $venv" >&2
    # Only what looks like an environment is cleared: the folder may have been named by hand.
    if [ -e "$venv" ] && [ -n "$(ls -A "$venv")" ] && [ ! -e "$venv/pyvenv.cfg" ]; then
        fail "$venv is not empty and no virtual environment"
    fi
    "$base" -m venv --clear "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$requirements" >&2
    "$venv/bin/python" -c 'import lightbus' || fail "lightbus installed, but does not import"
    touch "$complete"
}

if [ ! -e "$complete" ]; then
    mkdir -p "$(dirname "$venv")"
    exec 9>"$venv.lock"
    flock 9
    [ -e "$complete" ] || make_venv
fi
echo "$venv/bin/python"
