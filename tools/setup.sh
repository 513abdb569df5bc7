#!/bin/sh
# Bring this checkout to the point where it runs: system libraries, .venv, pinned packages.
#
#   tools/setup.sh [run|dev]     run (default): what gatepost needs; dev: linters and test tools too
#
# Idempotent, and quick when nothing is to be done: a stamp in .venv names what it was made from.
# PYTHON=python3.12 chooses the interpreter; without it the system's own comes first. Everything downloaded is checked against the
# hashes in requirements*.lock. A failure says its reason here; all of it is in setup.log.
set -eu
cd "$(dirname "$0")/.."
level=${1:-run}
log=$PWD/setup.log

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$*"; exit 2; }

# --- which Python ---------------------------------------------------------------------------

suits() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

# Could make a venv and build pymilter as it is.
complete() {
    "$1" - <<'EOF' >/dev/null 2>&1
import ensurepip, venv
import pathlib, sys, sysconfig
sys.exit(not (pathlib.Path(sysconfig.get_path("include")) / "Python.h").exists())
EOF
}

find_python() {
    # Debian builds its Python with profile-guided optimisation; one that pyenv compiled has none,
    # and every message costs a quarter more.
    if [ -z "${PYTHON:-}" ]; then
        for python in /usr/bin/python3.13 /usr/bin/python3.12 /usr/bin/python3.11 /usr/bin/python3; do
            if suits "$python" && complete "$python"; then echo "$python"; return; fi
        done
    fi
    # pyenv leaves commands that only say "not found": each is tried, not just looked up.
    for python in ${PYTHON:-python3.13 python3.12 python3.11 python3}; do
        if suits "$python"; then command -v "$python"; return; fi
    done
    return 1
}

# --- system libraries -----------------------------------------------------------------------

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
            complete "$python" || echo "$minor-dev" "$minor-venv"
        fi
    else
        echo python3 python3-dev python3-venv
    fi
}

# What `apt-get` says about its own failure; never only in a file that nobody looks into.
reason() { grep -E "$1" "$log" | tail -3 | sed 's/^/setup:   /' >&2; }

as_root=
need_root() {
    [ "$(id -u)" != 0 ] || return 0
    command -v sudo >/dev/null || die "root is needed, and there is no sudo; as root:" \
        "apt-get install --no-install-recommends $packages; then again as you"
    # It asks for its password here, where it can be seen, and not below, where all goes to the log.
    sudo -v || die "root is needed, and sudo did not let you; let somebody run as root:" \
        "apt-get install --no-install-recommends $packages"
    as_root=sudo
}

install_system() {
    packages=$(missing_packages | tr '\n' ' ')
    packages=${packages% }
    [ -n "$packages" ] || return 0
    command -v apt-get >/dev/null || die "please install, in your system's words: $packages" \
        "(Fedora: gcc sendmail-milter-devel python3-devel; FreeBSD: libmilter python311)"
    need_root
    say "installing with apt-get: $packages"
    # Lists that could not be brought up to date may still do; where not, the install says so.
    # shellcheck disable=SC2086  # one word a package, and no word where sudo is not needed
    {
        $as_root env DEBIAN_FRONTEND=noninteractive apt-get update || true
        $as_root env DEBIAN_FRONTEND=noninteractive \
            apt-get install -y --no-install-recommends $packages
    } </dev/null >"$log" 2>&1 || {
        reason '^(E|W|Err)[: ]'
        die "apt-get could not install $packages (all it said: $log)"
    }
}

# --- .venv ----------------------------------------------------------------------------------

stamp() { { echo "$PWD"; cat requirements*.lock pyproject.toml tools/setup.sh; } | cksum; }

current() { [ -x .venv/bin/python ] && [ "$(cat ".venv/.setup-$1" 2>/dev/null)" = "$(stamp)" ]; }

# Which proxy was asked, without its password.
proxy() {
    for name in https_proxy HTTPS_PROXY all_proxy ALL_PROXY http_proxy HTTP_PROXY PIP_PROXY; do
        eval "value=\${$name:-}"
        [ -z "$value" ] || { echo "$name=$value" | sed -E 's,//[^@/]*@,//...@,'; return; }
    done
    echo "as pip's configuration names it"
}

# Whether a connection that failed was one to the proxy: pip 26 says no more of it than its address.
proxy_refused() {
    host=$(proxy | sed -nE "s,^[^=]*=([a-z0-9]+://)?([^@/]*@)?\[?([^]:/]+).*,\3,p")
    [ -n "$host" ] && grep -qF "HTTPSConnection(host='$host', port=" "$log"
}

pip_install() {
    .venv/bin/python -m pip --disable-pip-version-check --no-input install --retries 2 "$@" \
        </dev/null >>"$log" 2>&1 && return
    # A proxy comes first: behind a wrong one, every other message is a consequence.
    if grep -qiE 'ProxyError|proxy (url|scheme)|Tunnel connection failed|SOCKS' "$log" ||
        proxy_refused; then
        die "the proxy did not let the Python packages through: $(proxy); correct or unset it" \
            "(all that pip said: $log)"
    elif grep -qE 'NewConnectionError|ConnectTimeout|ConnectionError|name resolution' "$log"; then
        die "no network: the Python packages could not be downloaded (all that pip said: $log)"
    elif grep -qE 'SSLError|CERTIFICATE_VERIFY_FAILED' "$log"; then
        die "the package index's certificate is not trusted here; \$PIP_CERT or \$REQUESTS_CA_BUNDLE" \
            "names a file with the right authority (all that pip said: $log)"
    fi
    reason '^ *(ERROR|error):'
    die "pip failed (all it said: $log)"
}

pinned() { pip_install --no-build-isolation --require-hashes --no-deps -r "$1"; }

make_venv() {
    python=$(find_python) || die "want Python 3.11 or newer (PYTHON=... names one)"
    # A checkout that was moved has scripts that point to where it was.
    if ! .venv/bin/python -c '' 2>/dev/null || ! grep -qsxF "$PWD" .venv/.made-in; then
        rm -rf .venv
        "$python" -m venv .venv >"$log" 2>&1 || {
            tail -3 "$log" | sed 's/^/setup:   /' >&2
            die "$python cannot make a venv"
        }
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
