#!/bin/sh
# The inner and the slow ring with the lowest versions that pyproject.toml allows: are its bounds true?
# In an environment of its own in a temporary directory; wants uv, which resolves to the lowest.
set -eu
cd "$(dirname "$0")/.."
command -v uv >/dev/null || { echo "test-lowest: please install uv" >&2; exit 2; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python=.venv/bin/python
version=$($python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
uv pip compile -q --resolution lowest-direct --python-version "$version" --all-extras \
    --no-header --no-annotate pyproject.toml -o "$work/lowest.txt"
$python -m venv "$work/venv"
pip="$work/venv/bin/pip -q --disable-pip-version-check install"
$pip --require-hashes -r requirements-build.lock
$pip --no-build-isolation -r "$work/lowest.txt"
# The test tools are not what is tested: as they come, but none that changes the versions above.
$pip -c "$work/lowest.txt" hypothesis pytest pytest-timeout pytest-xdist selenium
$pip --no-build-isolation --no-deps -e .
status=0
# Not the generated pages: an older click words the same help in another way.
"$work/venv/bin/pytest" -q -n 2 --dist loadfile -p no:cacheprovider \
    --deselect tests/tree/test_docs.py::test_generated_pages_are_fresh \
    -m "not (neighbours or postfix or exim or postgresql or crash or corpus or browser or tools)" \
    || status=$?
exit $status
