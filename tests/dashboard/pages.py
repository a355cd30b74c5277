"""Actions of a user on the pages of the dashboard, and screenshots."""

import re
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Locator, Page, expect

SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"

expect.set_options(timeout=30_000)  # for busy machines; elements that exist are found at once

Shoot = Callable[[str], None]


def take_picture(page: Page, name: str) -> None:
    expect(page.locator(".animate-pulse")).to_have_count(0)  # placeholders during loading
    page.screenshot(path=SCREENSHOTS / f"{re.sub(r'[^a-z0-9-]+', '-', name)}.png")


def fill(page: Page, field: str, text: str) -> None:
    """Fill in the text field with this label."""
    page.get_by_role("textbox", name=field, exact=True).fill(text)


def choose(page: Page, field: str, value: str) -> None:
    """Choose a value from the list of a field, and wait until the list has closed.

    When a list has closed, the dashboard moves the focus back to its button. A list that was opened
    before that loses the focus, and closes at once.
    """
    button = page.get_by_role("button", name=f"Select {field}", exact=True)
    button.click()
    page.get_by_role("option", name=value, exact=True).click()
    expect(page.get_by_role("option")).to_have_count(0)
    expect(button).to_be_focused()


def click(page: Page, button: Locator, call: str) -> int:
    """Click a button that makes the page call the API, and return the status of the reply.

    ``call`` is a regular expression that matches the end of the call's URL.
    """
    with page.expect_response(re.compile(f"{call}$")) as answer:
        button.click()
    return answer.value.status


def submit(page: Page) -> None:
    """Submit the form, and go to the page of the new run."""
    button = page.get_by_role("button", name="Submit")
    assert click(page, button, "/create_flow_run") == 201
    page.get_by_role("button", name="View run").click()
    expect(page).to_have_url(re.compile(r"/runs/flow-run/"))


def error_toasts(page: Page) -> Locator:
    """Return a locator for the messages that the dashboard shows when its API calls fail."""
    return page.locator("[data-sonner-toast][data-type='error']")


def run_of(page: Page) -> str:
    """Return the ID of the run whose page is open."""
    found = re.search(r"/flow-run/([0-9a-f-]{36})", page.url)
    assert found
    return found[1]
