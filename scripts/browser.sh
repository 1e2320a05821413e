#!/bin/sh
# Sees to it that the page tests find a Chromium. It never fails: without one, those tests do,
# and all others still run.
set -u

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

have_browser && exit

with_deps=
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "browser: no Chromium found, installing it with apt-get"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update && apt-get -qq install -y --no-install-recommends chromium >/dev/null
    have_browser && exit
    with_deps=--with-deps
fi

echo "browser: no Chromium found, installing Playwright's own"
.venv/bin/playwright install $with_deps chromium
have_browser && exit

echo "browser: no Chromium and none could be installed, so the page tests will fail" >&2
echo "browser: install chromium or google-chrome and put it on the PATH" >&2
