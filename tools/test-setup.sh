#!/bin/sh
# Bring what the outer rings of tests need, without touching a mail system or a database that is
# there: packages are unpacked below .venv, or installed where they start nothing by themselves.
#
# Nothing here fails for want of root or of a package: the ring says what it misses, and whether
# that is a failure is for $GATEPOST_REQUIRE to say (tests/rings.py).
set -eu
cd "$(dirname "$0")/.."
