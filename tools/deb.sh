#!/bin/sh
# Build the Debian package for the release this machine runs: dist/gatepost_VERSION_ARCH.deb.
#
# debhelper wants its files in debian/ at the top of a tree, so it gets a copy of the tree: what git
# knows, in a directory that goes away again. Two builds of one commit give the same package.
# With `nocompile` in $DEB_BUILD_OPTIONS no module of gatepost is compiled (tools/compiled.py).
# `tools/deb.sh DIRECTORY` puts the package there instead.
set -eu
cd "$(dirname "$0")/.."
out=${1:-$PWD/dist}
say() { printf 'deb: %s\n' "$*" >&2; }
die() { say "$*"; exit 2; }

missing=$(for package in build-essential debhelper libmilter-dev python3-dev python3-venv; do
    [ "$(dpkg-query -Wf '${db:Status-Status}' $package 2>/dev/null)" = installed ] || echo $package
done | paste -sd ' ' -)
[ -z "$missing" ] || die "what builds the package is not there; as root: apt-get install $missing"

. /etc/os-release
version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
# One build for each release, because each has a Python of its own.
full="$version~${ID}${VERSION_ID:-0}"
if epoch=$(git log -1 --format=%ct 2>/dev/null); then :; else epoch=$(stat -c %Y CHANGELOG.md); fi
export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-$epoch}" TZ=UTC LC_ALL=C.UTF-8

# Compilers and pip write down where they work: the same place at each build, and nobody else's.
work=/tmp/gatepost-deb
mkdir -m 700 "$work" || die "$work is in the way: another build is running, or remove it"
trap 'rm -rf "$work"' EXIT
tree=$work/gatepost
mkdir "$tree"
if git rev-parse --git-dir >/dev/null 2>&1; then
    git ls-files -z | tar --null -T - -cf - | tar -xf - -C "$tree"
else
    tar --exclude=./.venv --exclude=./dist -cf - . | tar -xf - -C "$tree"
fi
cp -R conf/debian "$tree/debian"
cat >"$tree/debian/changelog" <<EOF
gatepost ($full) unstable; urgency=medium

  * See /usr/share/doc/gatepost/NEWS.md.gz.

 -- The gatepost authors <gatepost@example.org>  $(date -uRd "@$SOURCE_DATE_EPOCH")
EOF
cp CHANGELOG.md "$tree/debian/NEWS.md"
echo debian/NEWS.md >>"$tree/debian/gatepost.docs"
say "building gatepost $full (what it prints: deb.log)"
(cd "$tree" && dpkg-buildpackage -b -us -uc) </dev/null >deb.log 2>&1 || {
    grep -aE 'error|Error|No matching|hash' deb.log | tail -5 | sed 's/^/deb:   /' >&2
    die "dpkg-buildpackage failed; all it said: $PWD/deb.log"
}
mkdir -p "$out"
for deb in "$work"/gatepost_*.deb; do
    cp "$deb" "$out/"
    say "$out/$(basename "$deb")"
done
