#!/bin/sh
# Run the inner and the slow ring on other releases and Pythons: tools/test-matrix.sh [RELEASE...]
#
# Each release is a chroot that debootstrap makes below $GATEPOST_MATRIX (default /var/tmp), and that
# is removed again; nothing is installed on this machine. As root. bookworm has Python 3.11, trixie
# 3.13, forky 3.14. PYTHONS="python3.12 ..." runs interpreters of this machine as well.
set -eu
cd "$(dirname "$0")/.."
say() { printf 'test-matrix: %s\n' "$*" >&2; }
[ "$(id -u)" = 0 ] || { say "debootstrap and chroot want root"; exit 2; }
command -v debootstrap >/dev/null || { say "please install debootstrap"; exit 2; }
base=${GATEPOST_MATRIX:-/var/tmp}
# By default where this machine's own packages come from.
mirror=${MIRROR:-$(apt-get indextargets --format '$(SITE)' | head -n 1)}
[ $# -gt 0 ] || set -- bookworm trixie forky
failed=
result() { say "$1: $2"; [ "$2" = passed ] || failed="$failed $1"; }

for release in "$@"; do
    root=$base/gatepost-matrix-$release
    rm -rf "$root"
    script=/usr/share/debootstrap/scripts/$release
    # A release newer than this debootstrap is made as sid is.
    [ -e "$script" ] || script=/usr/share/debootstrap/scripts/sid
    if ! debootstrap --variant=minbase --include=ca-certificates,git,make "$release" "$root" \
        "$mirror" "$script" >"$base/gatepost-matrix-$release.log" 2>&1; then
        result "$release" "no chroot; see $base/gatepost-matrix-$release.log"
        continue
    fi
    cp /etc/resolv.conf "$root/etc/"
    certificates=/etc/ssl/certs/ca-certificates.crt
    cp $certificates "$root/etc/ssl/certs/machine.crt"
    git clone -q . "$root/src"
    # An environment of nothing but PATH, HOME and LANG, and where the certificates are.
    if unshare --mount --pid --fork --kill-child sh -euc '
        mount -t proc proc "$1/proc"; mount --bind /dev "$1/dev"; mount --bind /dev/pts "$1/dev/pts"
        exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 \
            PIP_CERT=/etc/ssl/certs/machine.crt chroot "$1" make -C /src dev portable
    ' sh "$root" >>"$base/gatepost-matrix-$release.log" 2>&1; then
        result "$release" passed
    else
        result "$release" "failed; see $base/gatepost-matrix-$release.log"
    fi
    tail -1 "$base/gatepost-matrix-$release.log" >&2
    rm -rf "$root"
done
for python in ${PYTHONS:-}; do
    root=$base/gatepost-matrix-$python
    rm -rf "$root" && git clone -q . "$root"
    if env -i PATH="$PATH" HOME="$HOME" LANG=C.UTF-8 PYTHON="$python" make -C "$root" dev portable \
        >"$root.log" 2>&1; then
        result "$python" passed
    else
        result "$python" "failed; see $root.log"
    fi
    rm -rf "$root"
done
[ -z "$failed" ] || { say "failed:$failed"; exit 1; }
