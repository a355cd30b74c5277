"""A user who has read no documentation delivers one request from the dashboard."""

import re

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.dashboard.dashboard_stack import AUTH, Stack, new_id
from tests.dashboard.pages import SCREENSHOTS, Shoot, choose, error_toasts, fill, run_of, submit
from tests.deployments.triggered_runs import final_state, trigger
from tests.waiting import until

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


def test_nobody_comes_in_without_the_password(visitor: Page, stack: Stack, shoot: Shoot):
    assert httpx.post(f"{stack.api.base_url}flow_runs/filter", json={}).status_code == 401
    visitor.goto(f"{stack.dashboard}/v2/deployments")
    password = visitor.get_by_placeholder("admin:pass")
    password.fill("admin:guess")
    visitor.get_by_role("button", name="Login").click()
    expect(visitor.get_by_text("Invalid credentials").first).to_be_visible()
    shoot("login-refused")
    password.fill(AUTH)
    visitor.get_by_role("button", name="Login").click()
    expect(visitor.get_by_text("deliver-batch", exact=True)).to_be_visible()
    expect(visitor.get_by_text("deliver", exact=True)).to_be_visible()
    shoot("deployments")


def test_a_wrong_form_says_so_beside_each_field_and_makes_no_run(
    page: Page, stack: Stack, shoot: Shoot
):
    before = stack.runs_of("deliver")
    page.goto(stack.page_of("deliver") + "/run")
    page.set_viewport_size({"width": 1400, "height": 3400})
    for description in (
        "Your own ID for this request: a letter or digit, then up to 63 of A-Z a-z 0-9 . _ -",
        "The action to call.",
        "JPG, PNG. For VideoLivenessCompare, DetectReflectLivenessAndCompare, LivenessCompare, "
        "CheckIdCardInformation, IdCardOCRVerification.",
        "4 digits for LIP, 1,2 or 2,1 for ACTION, nothing for SILENT. For VideoLivenessCompare, "
        "LivenessCompare.",
        "Name of a tencent-credentials block. If empty, the worker's environment is used.",
    ):
        expect(page.get_by_text(description, exact=True)).to_be_visible()
    shoot("form-of-deliver")

    page.get_by_role("button", name="Submit").click()
    for field in ("request_id", "target_action", "region", "resources"):
        expect(page.get_by_text(f"'{field}' is a required property", exact=True)).to_be_visible()
    # The page still calls the API, which refuses the run as well.
    expect(page.get_by_text("Error creating flow run: Validation failed")).to_be_visible()
    expect(error_toasts(page)).not_to_have_count(0)

    fill(page, "request_id", "my request")
    choose(page, "target_action", "VideoLivenessCompare")
    choose(page, "region", "ap-singapore")
    fill(page, "ImageUrl (Optional)", "https://bucket.example/face.jpg?q-signature=0")
    fill(page, "LiveDataUrl (Optional)", "live.bin")
    choose(page, "LivenessType", "LIP")
    page.get_by_role("button", name="Submit").click()
    for message in (
        re.compile("^'my request' does not match"),
        re.compile("^'a location that is not a link with a query or a password, .*' was expected"),
        "'VideoUrl' is a required property",
        "'LiveDataUrl' is not one of ['ImageUrl', 'VideoUrl']",
        "'ValidateData' is a required property",
    ):
        expect(page.get_by_text(message)).to_be_visible()
    shoot("form-of-deliver-refused")
    assert stack.runs_of("deliver") == before


def test_from_the_form_to_the_verdict_and_its_artifact(page: Page, stack: Stack, shoot: Shoot):
    # The address that is printed opens the dashboard that these tests look at.
    page.goto(stack.dashboard)
    expect(page).to_have_url(re.compile(r"/v2/"))
    # Slow enough that the steps have a length in the graph.
    for op, seconds in (("CreateUploadUrl", 0.4), ("PutObject", 0.7), ("VideoLivenessCompare", 1)):
        stack.add_fault(op=op, do=f"delay:{seconds}", times=0)
    page.goto(stack.page_of("deliver"))
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Custom run").click()
    request_id = new_id("person")
    fill(page, "request_id", request_id)
    choose(page, "target_action", "VideoLivenessCompare")
    choose(page, "region", "ap-singapore")
    fill(page, "ImageUrl (Optional)", "alder.jpg")
    fill(page, "VideoUrl (Optional)", "alder.mp4")
    choose(page, "LivenessType", "SILENT")
    submit(page)

    main = page.get_by_role("main")
    expect(main.get_by_text("Completed", exact=True).first).to_be_visible()
    for text in (f"deliver {request_id}", "outcome:verdict", "verdict:passed"):
        expect(main.get_by_text(text, exact=True).first).to_be_visible()
    run = run_of(page)
    until(lambda: stack.artifact(f"result-{run}"), "the result artifact")
    page.reload()
    page.get_by_role("tab", name="Task Runs").click()
    for name in (
        "ticket ImageUrl",
        "ticket VideoUrl",
        "upload ImageUrl",
        "upload VideoUrl",
        "check expiry",
        "call VideoLivenessCompare",
    ):
        expect(main.get_by_text(name, exact=True)).to_be_visible()
    # The graph is drawn on a canvas; its edges are asserted in tests/flows.
    expect(page.locator("canvas").first).to_be_visible()
    shoot("run-with-its-steps")
    # README shows this part: docs/images/run-graph.png is a copy.
    page.screenshot(
        path=SCREENSHOTS / "run-graph.png", clip={"x": 256, "y": 0, "width": 1144, "height": 520}
    )
    page.get_by_role("tab", name="Details").click()
    expect(main.get_by_text("verdict: passed, Success [emulator]")).to_be_visible()
    shoot("run-with-its-message")

    page.get_by_role("tab", name="Artifacts").click()
    main.get_by_role("link", name=re.compile(f"result-{run}")).click()
    said = f"verdict: passed, Success [emulator], request {request_id}"
    expect(main.get_by_text(said)).to_be_visible()
    expect(main.get_by_role("cell", name=request_id)).to_be_visible()
    shoot("artifact-with-the-result")
    main.get_by_role("tab", name="Raw").click()
    expect(main.get_by_text("similarity")).to_be_visible()


def test_a_failed_run_says_why_on_its_page(page: Page, stack: Stack, shoot: Shoot):
    main = page.get_by_role("main")
    wrong_file = {"ImageUrl": "alder.mp4", "VideoUrl": "alder.mp4"}
    run = trigger(stack.api, request_id=new_id("wrong-file"), resources=wrong_file)
    assert final_state(stack.api, run)["type"] == "FAILED"
    until(lambda: stack.logs_of(run), "the run's log")
    page.goto(stack.page_of_run(run))
    expect(main.get_by_text("Failed", exact=True).first).to_be_visible()
    expect(main.get_by_text("outcome:invalid-input", exact=True).first).to_be_visible()
    expect(main.get_by_text("resource ImageUrl: the file is not JPG or PNG")).to_be_visible()
    shoot("run-that-failed-for-its-file")

    stack.add_fault(op="VideoLivenessCompare", do="api:ResourceUnavailable.InArrears")
    run = trigger(stack.api, request_id=new_id("arrears"))
    assert final_state(stack.api, run)["type"] == "FAILED"
    until(lambda: stack.logs_of(run), "the run's log")
    page.goto(stack.page_of_run(run))
    expect(main.get_by_text("outcome:invalid-input", exact=True).first).to_be_visible()
    expect(
        main.get_by_text(re.compile("Failed.*invalid-input: ResourceUnavailable.InArrears"))
    ).to_be_visible()
    shoot("run-that-failed-for-the-account")
    page.get_by_role("tab", name="Task Runs").click()
    expect(main.get_by_text("call VideoLivenessCompare", exact=True)).to_be_visible()
    shoot("run-that-failed-with-its-steps")


def test_cancel_brings_the_call_home(page: Page, stack: Stack, shoot: Shoot):
    main = page.get_by_role("main")
    action = "VideoLivenessCompare"
    before = stack.calls_of(action)
    stack.add_fault(op=action, do="delay:15")
    run = trigger(stack.api, request_id=new_id("cancelled"))
    until(lambda: stack.calls_of(action) > before, "the call")
    page.goto(stack.page_of_run(run, "Details"))
    expect(main.get_by_text("Running", exact=True).first).to_be_visible()
    main.locator("button[aria-haspopup=menu]").click()
    page.get_by_role("menuitem", name="Cancel").click()
    page.get_by_role("alertdialog").get_by_role("button", name="Cancel").last.click()
    expect(main.get_by_text("Cancelling", exact=True).first).to_be_visible()
    shoot("run-that-is-being-cancelled")
    state = final_state(stack.api, run)
    assert state["message"] == "cancelled: verdict: passed, Success [emulator]"
    page.reload()
    expect(main.get_by_text("Cancelled", exact=True).first).to_be_visible()
    expect(main.get_by_text("verdict:passed", exact=True).first).to_be_visible()
    shoot("run-that-was-cancelled")
    assert stack.calls_of(action) == before + 1


def test_the_runs_of_a_request_are_found_by_its_tag(page: Page, stack: Stack, shoot: Shoot):
    request_id = new_id("searched")
    for name in (request_id, new_id("other")):
        final_state(stack.api, trigger(stack.api, request_id=name))
    page.goto(f"{stack.dashboard}/v2/runs")
    tags = page.get_by_placeholder("All tags")
    tags.fill(f"request:{request_id}")
    tags.press("Enter")
    main = page.get_by_role("main")
    expect(main.get_by_text("1 Flow run", exact=True)).to_be_visible()
    expect(main.get_by_role("link", name=f"deliver {request_id}")).to_be_visible()
    shoot("runs-found-by-a-tag")


def test_the_block_for_a_key_can_be_made(page: Page, stack: Stack, shoot: Shoot):
    page.goto(f"{stack.dashboard}/v2/blocks/catalog/tencent-credentials/create")
    expect(page.get_by_role("button", name="Save")).to_be_visible()
    expect(page.get_by_role("textbox", name="Secret Id")).to_be_visible()
    shoot("block-with-a-key")
