"""A user delivers many requests from the dashboard, at once and every day."""

import re
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.dashboard.dashboard_stack import Stack, manifest_line, new_id
from tests.dashboard.pages import Shoot, choose, click, error_toasts, fill, run_of, submit
from tests.deployments.triggered_runs import final_state
from tests.waiting import until

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


def test_a_batch_shows_how_far_it_is_and_what_came_of_it(page: Page, stack: Stack, shoot: Shoot):
    name = new_id("people")
    lines = [manifest_line(f"{name}-{number:02}") for number in range(58)]
    lines += [
        manifest_line(f"{name}-{number}", resources={"ImageUrl": "gone.jpg", "VideoUrl": "a.mp4"})
        for number in (58, 59)
    ]
    (stack.folder / f"{name}.jsonl").write_text("".join(lines))
    stack.add_fault(op="VideoLivenessCompare", do="delay:2")
    page.goto(stack.page_of("deliver-batch") + "/run")
    expect(page.get_by_text(re.compile(r"^A JSONL or CSV file that lists"))).to_be_visible()
    shoot("form-of-deliver-batch")
    fill(page, "manifest", f"{name}.jsonl")
    page.get_by_role("spinbutton", name="concurrency").fill("8")
    submit(page)
    run = run_of(page)
    main = page.get_by_role("main")
    progress = until(lambda: stack.artifact(f"progress-{run}"), "the batch's progress artifact")
    expect(main.get_by_text("Running", exact=True).first).to_be_visible()
    expect(main.get_by_text(f"batch {name}.jsonl")).to_be_visible()
    shoot("batch-at-work")
    page.goto(progress)
    expect(main.get_by_text(re.compile(r"\d+ of 60 requests finished"))).to_be_visible()
    shoot("batch-with-its-progress")

    message = "partial: 58 verdicts, 2 failed of 60 requests [emulator]"
    assert final_state(stack.api, run)["message"] == message
    page.goto(stack.page_of_run(run, "Artifacts"))
    expect(main.get_by_text("outcome:partial", exact=True).first).to_be_visible()
    for what in ("progress", "summary", "picture"):
        expect(main.get_by_role("link", name=re.compile(f"{what}-{run}"))).to_be_visible()
    shoot("batch-with-its-artifacts")
    page.goto(stack.artifact(f"summary-{run}") or "")
    expect(main.get_by_role("heading", name="60 of 60 requests")).to_be_visible()
    row = main.get_by_role("row", name=f"input InvalidResource {name}-58, {name}-59 2")
    expect(row).to_be_visible()
    shoot("batch-with-its-summary")
    page.goto(stack.artifact(f"picture-{run}") or "")
    picture = main.get_by_role("img").last
    expect(picture).to_be_visible()
    assert picture.evaluate("image => image.naturalWidth") == 760
    shoot("batch-with-its-picture")


def test_run_is_pressed_while_a_batch_is_at_work(page: Page, stack: Stack, shoot: Shoot):
    name = new_id("crowd")
    one_file = {"target_action": "IdCardOCRVerification", "resources": {"ImageUrl": "alder.jpg"}}
    lines = [
        manifest_line(f"{name}-{number:03}", **one_file, action_parameters={})
        for number in range(3000)  # at 20 per second, takes longer than the test
    ]
    (stack.folder / f"{name}.jsonl").write_text("".join(lines))
    create = f"/deployments/{stack.deployment('deliver-batch')}/create_flow_run"
    batch = stack.ask("POST", create, {"parameters": {"manifest": f"{name}.jsonl"}})["id"]
    until(lambda: stack.artifact(f"progress-{batch}"), "the progress artifact of a running batch")
    for number in range(5):
        page.goto(stack.page_of("deliver") + "/run")
        fill(page, "request_id", f"{name}-single-{number}")
        choose(page, "target_action", "IdCardOCRVerification")
        choose(page, "region", "ap-singapore")
        fill(page, "ImageUrl (Optional)", "alder.jpg")
        submit(page)
        expect(error_toasts(page)).to_have_count(0)
    shoot("run-pressed-beside-a-batch")
    assert stack.ask("GET", f"/flow_runs/{batch}")["state"]["type"] == "RUNNING"
    assert final_state(stack.api, run_of(page))["type"] == "COMPLETED"
    cancelling = {"state": {"type": "CANCELLING"}, "force": True}
    stack.ask("POST", f"/flow_runs/{batch}/set_state", cancelling)
    assert final_state(stack.api, batch)["type"] == "CANCELLED"


def _elsewhere() -> ZoneInfo:
    """Return a time zone in which the date now differs from the date in UTC."""
    east = datetime.now(UTC).hour >= 11
    return ZoneInfo("Pacific/Kiritimati" if east else "Pacific/Pago_Pago")


def _open_schedule(page: Page, zone: ZoneInfo, manifest: str) -> Locator:
    """Open the dialog for a new schedule, fill it in, and return it.

    The schedule runs every minute, because a test cannot wait for a day.
    """
    page.get_by_role("button", name="Schedule", exact=True).click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("tab", name="Cron").click()
    expect(dialog.get_by_role("textbox", name="Value")).to_have_value("* * * * *")
    dialog.get_by_role("button", name="Select timezone").click()
    page.get_by_placeholder("Search", exact=True).fill(zone.key.partition("/")[2])
    page.get_by_role("option").first.click()
    fill(page, "manifest (Optional)", manifest)
    return dialog


def test_a_schedule_finds_each_days_file(page: Page, stack: Stack, shoot: Shoot):
    zone = _elsewhere()
    day = f"{datetime.now(zone):%Y-%m-%d}"
    assert day != f"{datetime.now(UTC):%Y-%m-%d}"
    name = new_id("daily")
    (stack.folder / f"{name}-{day}.jsonl").write_text(manifest_line(name))
    page.goto(stack.page_of("deliver-batch"))
    dialog = _open_schedule(page, zone, f"{name}-{{today}}.jsonl")
    dialog.get_by_role("button", name="Save").click()
    expect(dialog.get_by_text(re.compile("does not match"))).to_be_visible()
    page.set_viewport_size({"width": 1400, "height": 1800})
    shoot("schedule-refused")
    page.reload()
    _open_schedule(page, zone, f"{name}-{{date}}.jsonl")
    assert click(page, dialog.get_by_role("button", name="Save"), "/schedules") == 201
    page.set_viewport_size({"width": 1400, "height": 1000})
    active = page.get_by_role("switch", name="toggle Every minute")
    expect(active).to_be_checked()

    deployment = stack.deployment("deliver-batch")
    of_schedule = {"deployments": {"id": {"any_": [deployment]}}, "sort": "EXPECTED_START_TIME_ASC"}

    def scheduled() -> dict[str, Any] | None:
        runs = stack.ask("POST", "/flow_runs/filter", of_schedule)
        return next((run for run in runs if run["auto_scheduled"]), None)

    # Prefect's scheduler runs once a minute, or when it is called.
    stack.ask("POST", f"/deployments/{deployment}/schedule", {"min_runs": 3})
    run = until(scheduled, "a scheduled run")
    assert run["parameters"] == {"manifest": f"{name}-{{date}}.jsonl"}
    page.goto(stack.page_of("deliver-batch") + "?tab=Upcoming")
    expect(page.get_by_role("main").get_by_text("1 Parameter").first).to_be_visible()
    shoot("schedule-with-its-runs")
    assert final_state(stack.api, run["id"])["message"] == (
        "completed: 1 verdicts of 1 requests [emulator]"
    )
    page.goto(stack.page_of_run(run["id"]))
    expect(page.get_by_role("main").get_by_text(f"batch {name}-{day}.jsonl")).to_be_visible()
    shoot("schedule-with-a-run-that-is-done")
    page.goto(stack.page_of("deliver-batch"))
    assert click(page, active, f"/{deployment}/schedules/[0-9a-f-]+") == 204
    expect(active).not_to_be_checked()
