#!/bin/sh
# Bring this checkout to the point where it runs: system libraries, .venv, pinned packages.
#
#   tools/setup.sh [run|dev]     run (default): what gatepost needs; dev: linters and test tools too
#
# Idempotent, and quick when nothing is to be done: a stamp in .venv names what it was made from.
# PYTHON=python3.12 chooses the interpreter. Everything downloaded is checked against the
# hashes in requirements*.lock; details of a failure are in .venv.log.
set -eu
cd "$(dirname "$0")/.."
level=${1:-run}
log=$PWD/.venv.log

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$*"; exit 2; }

# --- which Python ---------------------------------------------------------------------------

suits() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

find_python() {
    # pyenv leaves commands that only say "not found": each is tried, not just looked up.
    for python in ${PYTHON:-python3.13 python3.12 python3.11 python3}; do
        if suits "$python"; then command -v "$python"; return; fi
    done
    return 1
}

# --- system libraries -----------------------------------------------------------------------

has_headers() {
    "$python" - <<'EOF' >/dev/null 2>&1
import pathlib, sys, sysconfig
sys.exit(not (pathlib.Path(sysconfig.get_path("include")) / "Python.h").exists())
EOF
}

is_debians() { case $("$python" -c 'import sys; print(sys.base_prefix)') in /usr) ;; *) false ;; esac; }

missing_packages() {
    command -v cc >/dev/null || command -v gcc >/dev/null || echo gcc
    # gcc alone may come without the C library's headers.
    [ -e /usr/include/stdlib.h ] || echo libc6-dev
    [ -e /usr/include/libmilter/mfapi.h ] || [ -e /usr/local/include/libmilter/mfapi.h ] ||
        echo libmilter-dev
    if python=$(find_python); then
        if is_debians; then
            minor=$("$python" -c 'import sys; print("python3.%d" % sys.version_info[1])')
            has_headers || echo "$minor-dev"
            "$python" -c 'import ensurepip, venv' >/dev/null 2>&1 || echo "$minor-venv"
        fi
    else
        echo python3 python3-dev python3-venv
    fi
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo "$@"
    else die "root is needed for: $*"
    fi
}

install_system() {
    packages=$(missing_packages | tr '\n' ' ')
    [ -n "$packages" ] || return 0
    command -v apt-get >/dev/null || die "please install, in your system's words: $packages" \
        "(Fedora: gcc sendmail-milter-devel python3-devel; FreeBSD: libmilter python311)"
    say "installing with apt-get: $packages"
    {
        as_root env DEBIAN_FRONTEND=noninteractive apt-get update &&
        # shellcheck disable=SC2086  # one word a package
        as_root env DEBIAN_FRONTEND=noninteractive \
            apt-get install -y --no-install-recommends $packages
    } </dev/null >"$log" 2>&1 ||
        die "apt-get could not install $packages(is there a network?); see $log"
}

# --- .venv ----------------------------------------------------------------------------------

stamp() { { echo "$PWD"; cat requirements*.lock pyproject.toml tools/setup.sh; } | cksum; }

current() { [ -x .venv/bin/python ] && [ "$(cat ".venv/.setup-$1" 2>/dev/null)" = "$(stamp)" ]; }

pip_install() {
    .venv/bin/python -m pip --disable-pip-version-check --no-input install --retries 2 "$@" \
        </dev/null >>"$log" 2>&1 && return
    if grep -qE 'NewConnectionError|ConnectTimeout|ConnectionError|name resolution|ProxyError' "$log"
    then die "no network: the Python packages could not be downloaded; see $log"
    fi
    grep -E '^ *(ERROR|error):' "$log" | tail -3 >&2
    die "pip failed; see $log"
}

pinned() { pip_install --no-build-isolation --require-hashes --no-deps -r "$1"; }

make_venv() {
    python=$(find_python) || die "want Python 3.11 or newer (PYTHON=... names one)"
    # A checkout that was moved has scripts that point to where it was.
    if ! .venv/bin/python -c '' 2>/dev/null || ! grep -qsxF "$PWD" .venv/.made-in; then
        rm -rf .venv
        "$python" -m venv .venv >"$log" 2>&1 || die "$python cannot make a venv; see $log"
        echo "$PWD" >.venv/.made-in
    fi
    say "installing Python packages into .venv ($("$python" -V))"
    : >"$log"
    pinned requirements-build.lock  # pymilter is built from source, with these
    if [ "$level" = dev ]; then pinned requirements-dev.lock; else pinned requirements.lock; fi
    pip_install --no-build-isolation --no-deps -e .
}

if current "$level" || current dev; then exit 0; fi
install_system
make_venv
stamp >".venv/.setup-$level"
say "done"
