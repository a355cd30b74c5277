"""The dashboard in a real browser: what a person sees of a delivery."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tests.deployments.conftest import final_state, trigger

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

CHROMIUM = shutil.which("chromium")


@pytest.fixture
def page() -> Iterator[Page]:
    """A page of Debian's chromium, which tries to reach nothing but this machine."""
    if CHROMIUM is None:
        if os.environ.get("FACEID_TEST_BROWSER") == "required":
            pytest.fail("chromium is not installed")
        pytest.skip("chromium is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
            ],
        )
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(30_000)
        yield page
        browser.close()


def test_a_run_and_the_form_read_well(up: Callable[[], dict[str, str]], page: Page, tmp_path: Path):
    ready = up()
    with httpx.Client(base_url=ready["api_url"], timeout=30) as api:
        deployment = api.get("/deployments/name/deliver/default").json()["id"]
        run = trigger(api)
        assert final_state(api, run)["type"] == "COMPLETED"

    page.goto(f"{ready['dashboard']}/runs/flow-run/{run}")
    for text in ("deliver r-1", "request:r-1", "outcome:verdict", "verdict:passed", "Completed"):
        expect(page.get_by_text(text, exact=True).first).to_be_visible()
    # The graph is drawn on a canvas; its edges are asserted in tests/flows.
    expect(page.locator("canvas").first).to_be_visible()
    page.screenshot(path=tmp_path / "run.png")
    page.get_by_text("Task Runs", exact=True).click()
    for name in ("ticket ImageUrl", "upload VideoUrl", "check expiry", "call VideoLivenessCompare"):
        expect(page.get_by_text(name, exact=True).first).to_be_visible()

    page.goto(f"{ready['dashboard']}/deployments/deployment/{deployment}/run")
    for field in ("request_id", "target_action", "region", "resources"):
        expect(page.get_by_text(field, exact=True).first).to_be_visible()
    expect(page.get_by_text("The action that judges the files.").first).to_be_visible()
    page.screenshot(path=tmp_path / "form.png")
