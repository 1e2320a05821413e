#!/bin/sh
# Resolves pyproject.toml into both lock files. Pins stay as they are unless pyproject.toml rules
# them out; lock.sh --upgrade moves them all.
set -eu

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
.venv/bin/python -m venv "$work"
"$work/bin/python" -m pip install --quiet --disable-pip-version-check 'uv>=0.13,<0.14'

# One version of each package for all Pythons and platforms, as wheels only, so that every
# installation is the same and none builds anything.
lock() {
    "$work/bin/uv" pip compile --quiet --no-config --no-python-downloads \
        --universal --python-version 3.11 --fork-strategy fewest \
        --generate-hashes --only-binary :all: --emit-build-options \
        --custom-compile-command "make lock" pyproject.toml "$@"
}

lock --group build --group bench --group dev --output-file requirements-dev.txt "$@"
# The runtime lock takes its pins from the one just made: uv keeps those of the output file.
cp requirements-dev.txt requirements.txt
lock --group build --output-file requirements.txt
