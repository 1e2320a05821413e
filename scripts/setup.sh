#!/bin/sh
# Fills .venv from a lock file: setup.sh REQUIREMENTS STAMP...
# The stamps tell make that all went well; nothing else does.
set -eu

requirements=$1
shift

fail() {
    printf 'setup: %s\n' "$@" >&2
    exit 1
}

# Prints the interpreter behind $1 if it is one that Ray has wheels for and has the module $2.
# It is run, not just looked up: a version manager's shim may lead nowhere.
interpreter() {
    "$1" -c "import sys, $2
if not (3, 11) <= sys.version_info < (3, 15): sys.exit(1)
print(sys._base_executable)" 2>/dev/null
}

find_python() {
    candidates=${PYTHON:-python3.14 python3.13 python3.12 python3.11 python3 python}
    for candidate in $candidates; do
        python=$(interpreter "$candidate" ensurepip) && return
    done
    for candidate in $candidates; do
        python=$(interpreter "$candidate" sys) || continue
        version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        fail "$python cannot make virtual environments: it has no ensurepip module" \
            "on Debian or Ubuntu: apt install python$version-venv"
    done
    fail "no Python 3.11 to 3.14 found (tried: $candidates)" \
        "install one, or name it: PYTHON=/path/to/python3 make ..."
}

# Whatever was interrupted is thrown away: pip would take a half-copied package as installed.
if [ -e .venv/unfinished ] || ! interpreter .venv/bin/python pip >/dev/null; then
    find_python
    rm -rf .venv
    mkdir .venv
    : >.venv/unfinished
    "$python" -m venv .venv || fail "$python -m venv failed, see above"
fi
: >.venv/unfinished
rm -f .venv/*.stamp

# Python compiles what is imported when it first is; most never are.
pip() {
    .venv/bin/python -m pip install --quiet --no-input --disable-pip-version-check --no-compile "$@"
}

echo "setup: installing $requirements into .venv, this takes half a minute or so"
sed -n '/^pip==/,/[^\\]$/p' "$requirements" >.venv/pip.txt  # the one that installs all the others
pip --require-hashes -r .venv/pip.txt &&
    pip --require-hashes -r "$requirements" ||
    fail "pip could not install $requirements, see above" \
        "if that was the network: check it, or the proxy (HTTPS_PROXY), and run make again"

# The build backend is among the requirements, so this step downloads nothing.
pip --no-deps --no-build-isolation --editable . ||
    fail "pip could not install the project itself, see above"

rm .venv/unfinished
for stamp in "$@"; do
    : >"$stamp"
done
