"""Transitions of a record: every pair of a state and an event in the request's life."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, get_args

import pytest

from faceid.models import Reply, ResultError, Verdict
from tasks.state.records import (
    ALLOWED,
    IllegalTransition,
    Intent,
    Origin,
    Record,
    RecordState,
)

STATES: tuple[RecordState, ...] = get_args(RecordState)
NOW = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)
ORIGIN = Origin(deployment="deliver/default", parameters={"request_id": "r-1"})
REPLY = Reply(tencent_request_id="t-1", fields={"Result": "Success"})
VERDICT = Verdict(passed=True, result="Success")
REFUSED = Verdict(passed=False, result="FailedOperation.CompareLowSimilarity")
ERROR = ResultError(code="ImageDecodeFailed", message="no image", kind="input")


def new() -> Record:
    return Record.model_validate(
        {
            "request_id": "r-1",
            "target_action": "VideoLivenessCompare",
            "region": "ap-singapore",
            "request_digest": "a",
            "input_digest": "b",
            "window": 1,
        }
    )


def at_work() -> Record:
    record = new()
    record.claim("run-1", ORIGIN)
    return record


def calling() -> Record:
    record = at_work()
    record.intend_call()
    return record


def answered() -> Record:
    record = calling()
    record.answer(REPLY, VERDICT, ends_run=False)
    return record


def after(build: Callable[[], Record], what: str, *arguments: Any) -> Callable[[], Record]:
    def built() -> Record:
        record = build()
        getattr(record, what)(*arguments)
        return record

    return built


IN_STATE: dict[RecordState, Callable[[], Record]] = {
    "new": new,
    "at work": at_work,
    "calling": calling,
    "answered": answered,
    "waiting": after(at_work, "plan_follow_up", NOW),
    "crashed": after(at_work, "crash"),
    "cancelled": after(at_work, "cancel"),
    "failed": after(at_work, "fail", "invalid-input", ERROR),
    "done": after(answered, "finish"),
}

HAPPENS: dict[str, Callable[[Record], object]] = {
    "take_input": lambda record: record.take_input("LivenessCompare", "ap-hongkong", "c"),
    "open_window": lambda record: record.open_window(),
    "intend_call": lambda record: record.intend_call(),
    "withdraw_call": lambda record: record.withdraw_call(None),
    "refuse_call": lambda record: record.refuse_call(reached_action=True),
    "answer": lambda record: record.answer(REPLY, VERDICT, ends_run=True),
    "save_file": lambda record: record.save_file("best-frame.jpg"),
    "finish": lambda record: record.finish(),
    "fail": lambda record: record.fail("unavailable", ERROR),
    "back_off": lambda record: record.back_off(),
    "wait_until": lambda record: record.wait_until(NOW),
    "defer": lambda record: record.defer(),
    "plan_follow_up": lambda record: record.plan_follow_up(NOW),
    "follow_up_scheduled": lambda record: record.follow_up_scheduled("run-2"),
    "crash": lambda record: record.crash(),
    "cancel": lambda record: record.cancel(),
}


def table() -> dict[str, tuple[set[str], set[str]]]:
    """Return the states before and after each method, as the docstring of ``Record`` lists them."""
    rows: dict[str, list[str]] = {}
    lines = (Record.__doc__ or "").split("=====\n")
    method = ""
    for line in lines[2].splitlines() if len(lines) > 2 else []:
        if found := re.match(r"\s*``(\w+)``\s{2,}", line):
            method = found[1]
            rows[method] = re.split(r"\s{2,}", line.strip())[1:]
        elif method and line.strip().strip("= "):
            rows[method][-1] += f" {line.strip()}"
    return {method: (_states(before), _states(then)) for method, (before, then) in rows.items()}


def _states(text: str) -> set[str]:
    return set(re.split(r", | or ", text))


def test_the_table_in_the_docstring_is_what_the_methods_allow():
    rows = table()
    assert rows.pop("claim") == ({"any"}, {"at work", "calling", "done"})
    assert {method: before for method, (before, _) in rows.items()} == ALLOWED
    assert set(rows) == set(HAPPENS)


@pytest.mark.parametrize("state", STATES)
def test_each_state_is_what_it_is_called(state: RecordState):
    assert IN_STATE[state]().state == state


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("what", HAPPENS)
def test_what_may_follow_and_what_may_not(state: RecordState, what: str):
    record = IN_STATE[state]()
    before = record.model_dump()
    if state in ALLOWED[what]:
        HAPPENS[what](record)
        _, then = table()[what]
        assert record.state in (then if then != {"the same"} else {state})
    else:
        with pytest.raises(IllegalTransition, match=what):
            HAPPENS[what](record)
        assert record.model_dump() == before


@pytest.mark.parametrize("state", STATES)
def test_a_run_may_always_claim_a_request(state: RecordState):
    record = IN_STATE[state]()
    fence, verdict = record.fence, record.verdict
    assert record.claim("run-9", None) is False
    assert (record.fence, record.runs[-1].flow_run_id) == (fence + 1, "run-9")
    # A stored verdict is kept, and so is an intent without an answer.
    assert record.verdict == verdict
    expected = "done" if verdict else "calling" if state == "calling" else "at work"
    assert record.state == expected


def test_a_follow_up_knows_that_the_request_was_left_to_it():
    record = IN_STATE["waiting"]()
    record.follow_up_scheduled("run-2")
    assert record.claim("run-2", ORIGIN) is True
    assert record.follow_up is None
    assert record.claim("run-3", ORIGIN) is False


@pytest.mark.parametrize("state", ["failed", "waiting", "crashed"])
def test_no_other_input_while_an_intent_stands(state: RecordState):
    record = IN_STATE[state]()
    intended = record.model_copy(update={"intent": Intent(window=1, at=NOW)})
    with pytest.raises(IllegalTransition):
        HAPPENS["take_input"](intended)


def test_calls_count_what_was_sent():
    record = at_work()
    for reached_action, calls in ((True, 1), (False, 1), (True, 2)):
        record.intend_call()
        record.refuse_call(reached_action=reached_action)
        assert record.calls == calls
    record.intend_call()
    before = record.intent
    record.intend_call()
    record.withdraw_call(before)
    assert (record.calls, record.intent) == (3, before)


def test_a_record_is_frozen_for_everybody_else():
    record: Any = at_work()
    with pytest.raises(ValueError, match="frozen"):
        record.verdict = VERDICT
    with pytest.raises(ValueError, match="frozen"):
        record.runs[0].outcome = "verdict"


def test_a_record_of_before_the_renaming_is_read():
    old = new().model_dump(mode="json")
    old["form_digest"] = old.pop("request_digest")
    old["setbacks"] = {"since": "2026-11-26T12:00:00Z", "count": 2}
    del old["backoff"]
    record = Record.model_validate(old)
    assert record.request_digest == "a"
    assert record.backoff
    assert (record.backoff.since, record.backoff.count) == (NOW, 2)


def copy_of(record: Record) -> Record:
    """Return the record as another run loads it."""
    return Record.model_validate(record.model_dump())


@pytest.mark.parametrize("state", STATES)
def test_a_record_takes_what_an_overtaken_run_knows(state: RecordState):
    overtaken = calling()
    record = IN_STATE[state]()
    if state != "new":
        record.claim("run-2", ORIGIN)
        record = copy_of(record)
    before = copy_of(record)
    overtaken.answer(REPLY.model_copy(update={"tencent_request_id": "t-9"}), REFUSED, ends_run=True)
    record.take_over(overtaken)
    # The first stored verdict stands, with its answer; every call and its ID counts once.
    assert record.verdict == (before.verdict or REFUSED)
    assert record.reply == (before.reply or overtaken.reply)
    assert record.intent is None
    assert {"t-9", *before.tencent_request_ids} == set(record.tencent_request_ids)
    others = [run.calls for run in before.runs if run.flow_run_id != "run-1"]
    assert record.calls == 1 + sum(others)
    record.take_over(overtaken)
    assert record.calls == 1 + sum(others)


def test_records_of_before_keep_their_calls():
    old = at_work().model_dump() | {"calls": 3}
    del old["calls_before"]
    record = Record.model_validate(old)
    record.intend_call()
    assert (record.calls, copy_of(record).calls) == (4, 4)
