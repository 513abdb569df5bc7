#!/bin/sh
# Build what is published, twice, and compare: dist/ with sdist, wheel, on Debian the package, and
# SHA256SUMS. GPG and the upload are for whoever publishes.
set -eu
cd "$(dirname "$0")/.."
say() { printf 'release: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
[ -z "$(git status --porcelain)" ] || die "there are changes that no commit has"
version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
grep -q "^## $version" CHANGELOG.md || die "CHANGELOG.md has no heading for $version"
grep -q "^## $version (unreleased)" CHANGELOG.md &&
    say "CHANGELOG.md calls $version unreleased: set the date before it is published"
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH

build() { # build DIRECTORY: sdist, and the wheel from it
    .venv/bin/python -m hatchling build -t sdist -t wheel -d "$1" >/dev/null
    if command -v dpkg-buildpackage >/dev/null; then
        tools/deb.sh "$1"
    else
        say "no Debian package: dpkg-buildpackage is not here"
    fi
}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
build "$work/1"
build "$work/2"
for file in "$work"/1/*; do
    cmp "$file" "$work/2/$(basename "$file")" || die "two builds of $(basename "$file") differ"
done
rm -rf dist && mkdir dist && cp "$work"/1/* dist/
(cd dist && sha256sum -- * >SHA256SUMS && cat SHA256SUMS)
say "built twice, the same: dist/"
