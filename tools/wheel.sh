#!/bin/sh
# Build a wheel with compiled modules, for this Python and this kind of machine, into dist/.
# `make release` builds the one that is for all: pure Python.
set -eu
cd "$(dirname "$0")/.."
out=$PWD/dist python=$PWD/.venv/bin/python
if epoch=$(git log -1 --format=%ct 2>/dev/null); then :; else epoch=$(stat -c %Y CHANGELOG.md); fi
export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-$epoch}"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# In a copy of what git knows: compiled modules hide a checkout's later changes.
git ls-files -z | tar --null -T - -cf - | tar -xf - -C "$work"
"$python" tools/compiled.py "$work"
cd "$work" && "$python" -m hatchling build -t wheel -d "$out"
