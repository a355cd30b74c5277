"""The local stack with basic auth, and a browser for its dashboard.

Screenshots are saved under ``build/screenshots``.
"""

import os
import shutil
from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from faceid.samples import copy_samples
from tests.dashboard.dashboard_stack import AUTH, Stack
from tests.dashboard.pages import SCREENSHOTS, Shoot, take_picture
from tests.deployments.stack_processes import running_up

CHROMIUM = shutil.which("chromium")

# Flags for Debian's chromium, which must connect to nothing outside this machine.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    if CHROMIUM is None:
        if os.environ.get("FACEID_TEST_BROWSER") == "required":
            pytest.fail("chromium is not installed")
        pytest.skip("chromium is not installed")
    shutil.rmtree(SCREENSHOTS, ignore_errors=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def one_stack(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    copy_samples(folder)
    with (
        running_up(folder, PREFECT_SERVER_API_AUTH_STRING=AUTH, PREFECT_API_KEY="pnu_0") as ready,
        httpx.Client(
            base_url=ready["api_url"], auth=httpx.BasicAuth(*AUTH.split(":")), timeout=30
        ) as api,
    ):
        yield Stack(ready["dashboard"], ready["endpoint"], folder, api)


@pytest.fixture
def stack(one_stack: Stack) -> Iterator[Stack]:
    """The local stack, which all tests share. Faults are removed after each test."""
    yield one_stack
    httpx.delete(f"{one_stack.endpoint}/_emulator/faults").raise_for_status()


@pytest.fixture
def visitor(stack: Stack, chromium: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A browser page of a user who is not logged in."""
    context = chromium.new_context(viewport={"width": 1400, "height": 1000}, timezone_id="UTC")
    page = context.new_page()
    page.set_default_timeout(60_000)
    yield page
    take_picture(page, f"end-of-{request.node.name}")
    context.close()


@pytest.fixture
def page(visitor: Page, stack: Stack) -> Page:
    """A browser page of a user who is logged in."""
    visitor.goto(stack.dashboard)
    visitor.get_by_placeholder("admin:pass").fill(AUTH)
    visitor.get_by_role("button", name="Login").click()
    expect(visitor.get_by_role("link", name="Deployments")).to_be_visible()
    return visitor


@pytest.fixture
def shoot(visitor: Page) -> Shoot:
    """A function that saves a screenshot of the page under a name."""
    return lambda name: take_picture(visitor, name)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if SCREENSHOTS.exists():
        kept = len(list(SCREENSHOTS.glob("*.png")))
        terminalreporter.write_line(f"{kept} screenshots: {SCREENSHOTS}")
