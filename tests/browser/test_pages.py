"""The pages, in a real browser that cannot reach anything but the server."""

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from tests.playhead import Playhead

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium from the PATH, else Playwright's own."""
    installed = next(filter(None, map(shutil.which, BROWSERS)), None)
    arguments = ["--no-sandbox", "--disable-background-networking", "--disable-component-update"]
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
    page.on("pageerror", lambda error: flaws.append(str(error)))
    page.on("requestfailed", lambda request: flaws.append(f"failed: {request.url}"))
    yield page
    page.close()
    assert flaws == []


def test_the_front_page_leads_on(page: Page) -> None:
    page.goto("/")
    expect(page.get_by_role("heading", name="playhead")).to_be_visible()
    page.get_by_role("link", name="Documentation").click()
    expect(page.get_by_text("Watch time and resume points").first).to_be_visible()


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
