"""What a person does on the dashboard's pages, and pictures of what he saw."""

import re
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Locator, Page, expect

SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"

expect.set_options(timeout=30_000)  # a busy machine's; what is there is seen at once

Shoot = Callable[[str], None]


def take_picture(page: Page, name: str) -> None:
    expect(page.locator(".animate-pulse")).to_have_count(0)  # what stands there until more is known
    page.screenshot(path=SCREENSHOTS / f"{re.sub(r'[^a-z0-9-]+', '-', name)}.png")


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
