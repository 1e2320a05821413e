#!/bin/sh
# Sees to it that the page tests find a Chromium, and what Playwright needs to drive it. It never
# fails: without them, those tests do, and all others still run.
set -u

playwright=.venv/bin/playwright

# Asking for the version also tells a real browser from a stub, or one that lacks libraries.
have_browser() {
    for browser in chromium chromium-browser google-chrome google-chrome-stable; do
        "$browser" --version >/dev/null 2>&1 && return
    done
    browser=$(.venv/bin/python -c '
from playwright.sync_api import sync_playwright
with sync_playwright() as playwright:
    print(playwright.chromium.executable_path)') && "$browser" --version >/dev/null 2>&1
}

# It is a program that a system with little on it may have no library for.
have_driver() {
    "$playwright" --version >/dev/null 2>&1
}

have_both() {
    have_driver && have_browser
}

have_both && exit

with_deps=
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "browser: no Chromium found that can be driven, installing it with apt-get"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update
    for package in libatomic1 chromium; do  # a system may have one of them only
        apt-get -qq install -y --no-install-recommends $package >/dev/null
    done
    have_both && exit
    with_deps=--with-deps
fi

if have_driver; then
    echo "browser: no Chromium found, installing Playwright's own"
    "$playwright" install $with_deps chromium
    have_browser && exit
    echo "browser: no Chromium and none could be installed, so the page tests will fail" >&2
    echo "browser: install chromium or google-chrome and put it on the PATH" >&2
else
    echo "browser: Playwright does not start, so the page tests will fail; it says" >&2
    "$playwright" --version >&2
fi
exit 0
