"""The pages, in a real browser that cannot reach anything but the server."""

import re
import shutil
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, Page, Request, Route, expect, sync_playwright

from tests.playhead import Playhead

#: Slugs that are markup, the second of a movie with a title.
MARKUP, TITLED = "<img src=x onerror=alert(1)>", "<b>/?#&amp;%2F"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

#: A page shows a frame a second, and a busy machine is late.
EXPECT_TIMEOUT_MS = 30_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium from the PATH, else Playwright's own."""
    installed = next(filter(None, map(shutil.which, BROWSERS)), None)
    arguments = ["--no-sandbox", "--disable-background-networking", "--disable-component-update"]
    expect.set_options(timeout=EXPECT_TIMEOUT_MS)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=installed, args=arguments)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser, server: Playhead) -> Iterator[Page]:
    """A page that notes every address outside the server, and every error."""
    page = browser.new_page(base_url=server.url)
    flaws: list[str] = []

    def only_here(route: Route) -> None:
        if route.request.url.startswith(server.url):
            route.continue_()
        else:
            flaws.append(f"asked for {route.request.url}")
            route.abort()

    page.route("**/*", only_here)

    def failed(request: Request) -> None:
        # A stream has no end; leaving its page breaks it off.
        if not request.url.endswith("/v1/live"):
            flaws.append(f"failed: {request.url}")

    page.on("pageerror", lambda error: flaws.append(str(error)))
    page.on("requestfailed", failed)
    page.on("dialog", lambda dialog: flaws.append(f"a dialog: {dialog.message}"))
    page.add_init_script(
        "addEventListener('securitypolicyviolation', (e) => { throw Error(e.violatedDirective) })"
    )
    yield page
    page.close()
    assert flaws == []


def test_the_front_page_leads_on(page: Page) -> None:
    page.goto("/")
    expect(page.get_by_role("heading", name="playhead")).to_be_visible()
    links = page.get_by_role("navigation").get_by_role("link").all()
    addresses = [link.get_attribute("href") for link in links]
    assert {"/docs", "/openapi.json", "/v1/stats", "/metrics"} <= set(addresses)
    assert all(page.request.get(str(address)).ok for address in addresses)
    page.get_by_role("link", name="Documentation").click()
    expect(page.get_by_text("Watch time and resume points").first).to_be_visible()


def test_the_front_page_is_live(page: Page, server: Playhead) -> None:
    page.goto("/")
    events = page.locator("[data-field=events]")
    expect(page.get_by_role("status")).to_have_text("Live")
    for n in range(1, 3):
        before = int(events.inner_text().replace(",", ""))
        server.post("/", json=[{"user": f"page{n}", "slug": "page", "at": at} for at in range(5)])
        expect(events).to_have_text(f"{before + 5:,}")
    for chart in page.locator("svg").all():
        expect(chart.locator(".line")).to_have_attribute("d", re.compile("^M.+L"))
        expect(chart).to_have_accessible_name(re.compile("from .+ to .+, now"))


def test_names_are_shown_as_text(page: Page, server: Playhead) -> None:
    """Enough is watched here to be on top of whatever other tests have watched."""
    title = "<script>alert(2)</script>"
    server.session.put(f"{server.url}/v1/movies/{quote(TITLED, safe='')}", json={"title": title})
    for slug, end in ((MARKUP, 300_000), (TITLED, 240_000)):
        events = [{"user": "markup", "slug": slug, "at": at} for at in range(0, end, 60)]
        assert server.post("/", json=events).json()["accepted"] == len(events)
    page.goto("/")
    rows = page.get_by_role("table").get_by_role("row")
    expect(rows.filter(has_text=MARKUP)).to_have_text(f"{MARKUP}83 h 19 min1")
    expect(rows.filter(has_text=TITLED)).to_have_text(f"{title}{TITLED}66 h 39 min1")
    assert page.locator("img").count() == 0
    rows.filter(has_text=TITLED).get_by_role("link").click()
    expect(page.locator("body")).to_contain_text('"watch_seconds":239940')


def test_the_front_page_connects_again(page: Page) -> None:
    page.route("**/v1/live", lambda route: route.fulfill(status=503))
    page.goto("/")
    expect(page.get_by_role("status")).to_have_text("Reconnecting…")
    page.unroute("**/v1/live")
    expect(page.get_by_role("status")).to_have_text("Live")


def test_the_front_page_says_what_is_missing(page: Page, server: Playhead) -> None:
    page.goto("/")
    expect(page.get_by_role("status")).to_have_text("Live")
    shard = server.children("ShardActor")[0]
    shard.suspend()
    try:
        expect(page.get_by_role("alert")).to_contain_text(re.compile("shard [01] not available"))
        expect(page.get_by_role("status")).to_have_text("Waiting for shards")
    finally:
        shard.resume()
    expect(page.get_by_role("status")).to_have_text("Live")
    expect(page.get_by_role("alert")).to_be_hidden()


@pytest.mark.parametrize("width", [320, 375, 1280])
def test_the_front_page_fits(page: Page, server: Playhead, width: int) -> None:
    for slug, end in (("w" * 256, 600_000), (f"at{width}", 358_800)):
        events = [{"user": f"at{width}", "slug": slug, "at": at} for at in range(0, end, 60)]
        server.post("/", json=events)
    page.set_viewport_size({"width": width, "height": 800})
    page.goto("/")
    expect(page.get_by_text("w" * 256)).to_be_visible()
    row = page.get_by_role("row").filter(has_text=f"at{width}")
    expect(row).to_contain_text("99 h 39 min")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for cell in page.get_by_role("cell").all():
        assert cell.evaluate("(cell) => cell.scrollWidth <= cell.clientWidth"), cell.inner_text()


def test_the_front_page_is_dark_where_that_is_preferred(page: Page) -> None:
    def brightness() -> float:
        color = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", color)[:3])) / 3

    page.goto("/")
    page.emulate_media(color_scheme="light")
    assert brightness() > 200
    page.emulate_media(color_scheme="dark")
    assert brightness() < 50


def test_the_front_page_runs_nothing_but_its_own(page: Page) -> None:
    answer = page.goto("/")
    assert answer is not None
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert page.evaluate(
        """() => {
            window.broken = [];
            addEventListener("securitypolicyviolation", (event) => {
              broken.push(event.violatedDirective); event.stopImmediatePropagation();
            }, true);
            const script = document.createElement("script");
            script.textContent = "window.hasRun = true";
            document.body.append(script);
            return window.hasRun === undefined;
        }"""
    )


def test_the_documentation_leads_back_and_suits_phones(page: Page) -> None:
    page.goto("/docs")
    expect(page.locator("meta[name=viewport]")).to_have_attribute("content", re.compile("device"))
    page.get_by_role("link", name="What is going on now").click()
    expect(page.get_by_role("heading", name="playhead")).to_be_visible()


def test_the_documentation_can_be_tried_out(page: Page) -> None:
    page.goto("/docs")
    operation = page.locator(".opblock", has=page.locator("[data-path='/v1/events']"))
    operation.locator(".opblock-summary").click()
    operation.get_by_role("button", name="Execute").click()
    answer = operation.locator(".live-responses-table .response")
    expect(answer).to_contain_text("200")
    expect(answer).to_contain_text('"accepted": 1')


def test_every_answer_shows_its_shape(page: Page) -> None:
    page.goto("/docs")
    operation = page.locator(".opblock", has_text="How long was this movie watched").first
    operation.locator(".opblock-summary").click()
    expect(operation.locator(".responses-table").first).to_contain_text("average_watch_seconds")
    expect(operation.locator(".parameters-container")).to_contain_text("slug")
