"""The local stack with basic auth on, and a person's browser on its dashboard.

What the person saw is kept under ``build/screenshots``.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from faceid.samples import copy_samples
from tests.deployments.conftest import running_up

AUTH = "admin:let me in"
CHROMIUM = shutil.which("chromium")
SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"

# Debian's chromium, which tries to reach nothing but this machine.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

expect.set_options(timeout=30_000)  # a busy machine's; what is there is seen at once


@dataclass
class Stack:
    """``faceid up --emulator``, and its API as the person's colleagues use it."""

    dashboard: str
    endpoint: str
    folder: Path
    """Where it was started: what locations are relative to."""
    api: httpx.Client

    def ask(self, method: str, path: str, json: Any = None) -> Any:
        reply = self.api.request(method, path, json=json)
        return reply.raise_for_status().json() if reply.content else None

    def deployment(self, flow: str) -> str:
        return self.ask("GET", f"/deployments/name/{flow}/default")["id"]

    def page_of(self, flow: str) -> str:
        return f"{self.dashboard}/v2/deployments/deployment/{self.deployment(flow)}"

    def page_of_run(self, run: str, tab: str = "Logs") -> str:
        return f"{self.dashboard}/v2/runs/flow-run/{run}?tab={tab}"

    def runs_of(self, flow: str) -> int:
        return self.ask("POST", "/flow_runs/count", {"flows": {"name": {"any_": [flow]}}})

    def artifact(self, key: str) -> str | None:
        found = self.ask("POST", "/artifacts/filter", {"artifacts": {"key": {"any_": [key]}}})
        return f"{self.dashboard}/v2/artifacts/artifact/{found[0]['id']}" if found else None

    def logs_of(self, run: str) -> list[str]:
        query = {"logs": {"flow_run_id": {"any_": [run]}}}
        return [log["message"] for log in self.ask("POST", "/logs/filter", query)]

    def add_fault(self, **fault: Any) -> None:
        httpx.post(f"{self.endpoint}/_emulator/faults", json=fault).raise_for_status()


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
    """One for all tests; each leaves it without faults."""
    yield one_stack
    httpx.delete(f"{one_stack.endpoint}/_emulator/faults").raise_for_status()


@pytest.fixture
def visitor(stack: Stack, chromium: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The page of somebody who has not said who he is."""
    context = chromium.new_context(viewport={"width": 1400, "height": 1000}, timezone_id="UTC")
    page = context.new_page()
    page.set_default_timeout(60_000)
    yield page
    _keep(page, f"end-of-{request.node.name}")
    context.close()


@pytest.fixture
def page(visitor: Page, stack: Stack) -> Page:
    """The page of somebody who is in."""
    visitor.goto(stack.dashboard)
    visitor.get_by_placeholder("admin:pass").fill(AUTH)
    visitor.get_by_role("button", name="Login").click()
    expect(visitor.get_by_role("link", name="Deployments")).to_be_visible()
    return visitor


Shoot = Callable[[str], None]


@pytest.fixture
def shoot(visitor: Page) -> Shoot:
    """Keeps what is on the screen under this name."""
    return lambda name: _keep(visitor, name)


def _keep(page: Page, name: str) -> None:
    expect(page.locator(".animate-pulse")).to_have_count(0)  # what stands there until more is known
    page.screenshot(path=SCREENSHOTS / f"{re.sub(r'[^a-z0-9-]+', '-', name)}.png")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if SCREENSHOTS.exists():
        kept = len(list(SCREENSHOTS.glob("*.png")))
        terminalreporter.write_line(f"{kept} screenshots: {SCREENSHOTS}")


def fill(page: Page, field: str, text: str) -> None:
    """Fills a field of a form in, by its label."""
    page.get_by_role("textbox", name=field, exact=True).fill(text)


def choose(page: Page, field: str, value: str) -> None:
    """Chooses from a field's list."""
    page.get_by_role("button", name=f"Select {field}", exact=True).click()
    page.get_by_role("option", name=value, exact=True).click()


def click(page: Page, button: Locator, call: str) -> int:
    """Clicks what makes the page call the API; gives the status that came back.

    ``call`` is a regular expression for the end of the call's address.
    """
    with page.expect_response(re.compile(f"{call}$")) as answer:
        button.click()
    return answer.value.status


def submit(page: Page) -> None:
    """Submits the form and goes to the run's page."""
    button = page.get_by_role("button", name="Submit")
    assert click(page, button, "/create_flow_run") == 201
    page.get_by_role("button", name="View run").click()
    expect(page).to_have_url(re.compile(r"/runs/flow-run/"))


def error_toasts(page: Page) -> Locator:
    """What the dashboard pops up when a call of it failed."""
    return page.locator("[data-sonner-toast][data-type='error']")


def run_of(page: Page) -> str:
    """The ID of the run whose page this is."""
    found = re.search(r"/flow-run/([0-9a-f-]{36})", page.url)
    assert found
    return found[1]


def new_id(what: str) -> str:
    """A request ID of a test's own."""
    return f"{what}-{uuid4().hex[:8]}"


def manifest_line(request_id: str, **changes: Any) -> str:
    request: dict[str, Any] = {
        "request_id": request_id,
        "target_action": "VideoLivenessCompare",
        "region": "ap-singapore",
        "resources": {"ImageUrl": "alder.jpg", "VideoUrl": "alder.mp4"},
        "action_parameters": {"LivenessType": "SILENT"},
    }
    return json.dumps(request | changes) + "\n"
