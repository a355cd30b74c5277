"""The limit applies to every period of a second; calls beyond it get RequestLimitExceeded."""

import pytest
from emulator_calls import Caller
from hypothesis import given
from hypothesis import strategies as st

from faceid.actions import TARGET_ACTIONS
from faceid.emulator import Emulator, EmulatorOptions
from faceid.emulator.rates import Rates

TICKET = {"TargetAction": "VideoLivenessCompare"}


def test_25_calls_in_a_second(emulator: Emulator, caller: Caller) -> None:
    answers = [caller.call("CreateUploadUrl", TICKET) for _ in range(25)]
    refused = [answer["Error"] for answer in answers if "Error" in answer]
    log = emulator.requests(op="CreateUploadUrl")
    assert log[-1]["at"] - log[0]["at"] < 1
    assert len(refused) == 5
    assert {error["Code"] for error in refused} == {"RequestLimitExceeded"}
    assert refused[0]["Message"] == (
        "Your current request times equals to `21` in a second, which exceeds the frequency "
        "limit `20` for a second. Please reduce the frequency of calls."
    )
    stats = emulator.stats()
    assert stats["calls"] == {"CreateUploadUrl": 20}
    assert stats["throttled"] == {"CreateUploadUrl": 5}
    assert stats["errors"] == {"RequestLimitExceeded": 5}
    assert stats["peak_per_second"] == {"CreateUploadUrl": 20}


def test_never_more_than_20_in_any_second(emulator: Emulator, caller: Caller) -> None:
    """The calls are made as fast as possible, for more than two seconds."""
    while (emulator.stats()["calls"].get("CreateUploadUrl", 0)) < 50:
        for _ in range(20):
            caller.call("CreateUploadUrl", TICKET)
    passed = [entry["at"] for entry in emulator.requests(op="CreateUploadUrl") if not entry["code"]]
    gaps = [later - earlier for earlier, later in zip(passed, passed[20:], strict=False)]
    # The log's times are taken just before the limit is checked, which a busy machine may delay.
    assert min(gaps) > 0.9
    assert emulator.stats()["peak_per_second"]["CreateUploadUrl"] == 20


def test_each_action_has_its_own_limit(caller: Caller) -> None:
    def codes(action: str, count: int) -> list[str]:
        return [caller.code(action, parameters) for _ in range(count)]

    parameters = {"DeviceDataUrl": "u", "DeviceDataMd5": "0" * 32}
    assert codes("GenerateReflectSequence", 6) == (
        ["FailedOperation.DownLoadError"] * 5 + ["RequestLimitExceeded"]
    )
    assert caller.ticket()


def test_other_rates() -> None:
    rates = {"CreateUploadUrl": 2.0, "LivenessCompare": 0.5}
    with Emulator(EmulatorOptions(port=0, rates=rates)) as emulator:
        caller = Caller.of(emulator)
        codes = [caller.call("CreateUploadUrl", TICKET).get("Error", {}).get("Code") for _ in "123"]
        assert codes == [None, None, "RequestLimitExceeded"]
        emulator.reset()
        assert caller.ticket()


@given(
    rate=st.sampled_from([0.5, 1.0, 3.0, 20.0]),
    pauses=st.lists(st.floats(0, 0.4), min_size=1, max_size=120),
)
def test_no_second_has_more_than_its_rate(rate: float, pauses: list[float]) -> None:
    rates = Rates(TARGET_ACTIONS, {"VideoLivenessCompare": rate})
    span, limit = max(1.0, 1 / rate), max(1, int(rate))
    moment, taken, refused = 0.0, list[float](), list[float]()
    for pause in pauses:
        moment += pause
        over = rates.take("VideoLivenessCompare", moment)
        (refused if over else taken).append(moment)
    for start in taken:
        assert sum(start <= at and at - start < span for at in taken) <= limit
    for at in refused:  # no call is refused unnecessarily
        assert sum(earlier <= at and at - earlier < span for earlier in taken) == limit


@pytest.mark.parametrize("action", ["CheckIdCardInformation", "ApplyCardVerification"])
def test_where_no_rate_is_known(action: str) -> None:
    rates = Rates(TARGET_ACTIONS, {})
    assert not any(rates.take(action, 0.0) for _ in range(1000))
