"""What the form accepts and refuses, checked by the real API. No run is created on refusal."""

from collections.abc import AsyncGenerator, Mapping
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect import Flow, get_client
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.types.entrypoint import EntrypointType
from prefect.utilities.schema_tools.validation import is_valid

from faceid.actions import TARGET_ACTIONS, TargetAction
from faceid.errors import InvalidInput
from faceid.files.roots import Roots
from faceid.validation import read_request, validate_request
from flows.deliver import deliver
from flows.deliver_batch import deliver_batch
from flows.parameters import strict_schema
from tasks.settings import DeliverySettings
from tests.sample_request import REQUEST

LINK = "https://bucket.example/face.jpg?q-signature=0123"
WITH_PASSWORD = "sftp://somebody:secret@host/face.jpg"


class Form(NamedTuple):
    """A deployment, reached through the API as the dashboard and programs do."""

    api: httpx.Client
    deployment: UUID

    def submit(self, parameters: Mapping[str, Any]) -> httpx.Response:
        path = f"/deployments/{self.deployment}/create_flow_run"
        return self.api.post(path, json={"parameters": parameters})

    def runs(self) -> int:
        of_this = {"deployments": {"id": {"any_": [str(self.deployment)]}}}
        return self.api.post("/flow_runs/count", json=of_this).raise_for_status().json()

    def refuses(self, parameters: Mapping[str, Any]) -> str:
        """Check that the API refuses the parameters and creates no run; return the reason."""
        reply = self.submit(parameters)
        assert reply.status_code == 409, reply.text
        assert self.runs() == 0
        return reply.json()["detail"]

    def takes(self, parameters: Mapping[str, Any]) -> None:
        reply = self.submit(parameters)
        assert reply.status_code == 201, reply.text
        # so that no other test finds it
        self.api.delete(f"/flow_runs/{reply.json()['id']}").raise_for_status()


async def _deploy(api_url: str, flow: Flow[..., Any]) -> Form:
    made = await flow.ato_deployment(
        f"form-{uuid4().hex[:8]}", entrypoint_type=EntrypointType.MODULE_PATH
    )
    deployment = await made.aapply()
    async with get_client() as client:
        schema = (await client.read_deployment(deployment)).parameter_openapi_schema
        update = DeploymentUpdate(parameter_openapi_schema=strict_schema(schema or {}))
        await client.update_deployment(deployment, update)
    return Form(httpx.Client(base_url=api_url, timeout=30), deployment)


@pytest.fixture(scope="module")
async def one(prefect_api: str) -> AsyncGenerator[Form]:
    form = await _deploy(prefect_api, deliver)
    with form.api:
        yield form


@pytest.fixture(scope="module")
async def many(prefect_api: str) -> AsyncGenerator[Form]:
    form = await _deploy(prefect_api, deliver_batch)
    with form.api:
        yield form


RESOURCES: dict[str, Any] = REQUEST["resources"]
PARAMETERS: dict[str, Any] = REQUEST["action_parameters"]


@pytest.mark.parametrize(
    ("changes", "field", "reason"),
    [
        ({"request_id": ""}, "request_id", "does not match"),
        ({"request_id": "r 1"}, "request_id", "does not match"),
        ({"request_id": "r-1\n"}, "request_id", "does not match"),
        ({"request_id": "r" * 65}, "request_id", "does not match"),
        ({"request_id": 1}, "request_id", "is not of type 'string'"),
        ({"target_action": "Guess"}, "target_action", "is not one of ['VideoLivenessCompare'"),
        ({"target_action": None}, "target_action", "is not one of"),
        ({"region": "ap-tokyo"}, "region", "is not one of ['ap-bangkok'"),
        ({"resources": {}}, "resources", "'ImageUrl' is a required property"),
        ({"resources": None}, "resources", "is not of type 'object'"),
        ({"resources": "face.jpg"}, "resources", "is not of type 'object'"),
        ({"resources": {"ImageUrl": "a.jpg"}}, "resources", "'VideoUrl' is a required property"),
        ({"resources": RESOURCES | {"VideoUrl": ""}}, "resources.VideoUrl", "does not match"),
        ({"resources": RESOURCES | {"VideoUrl": None}}, "resources.VideoUrl", "'string'"),
        ({"resources": RESOURCES | {"VideoUrl": "a\n"}}, "resources.VideoUrl", "does not match"),
        ({"resources": RESOURCES | {"VideoUrl": "a\0"}}, "resources.VideoUrl", "does not match"),
        ({"resources": RESOURCES | {"VideoUrl": LINK}}, "resources.VideoUrl", "a link with a"),
        ({"resources": RESOURCES | {"VideoUrl": WITH_PASSWORD}}, "resources.VideoUrl", "a link"),
        ({"resources": RESOURCES | {"LiveDataUrl": "x"}}, "resources", "'LiveDataUrl' is not one"),
        ({"resources": RESOURCES | {"ImageMd5": "0" * 32}}, "resources", "'ImageMd5' is not one"),
        ({"resources": RESOURCES | {"Guess": "x"}}, "resources", "'Guess' is not one of"),
        ({"action_parameters": {}}, "action_parameters", "'LivenessType' is a required"),
        ({"action_parameters": None}, "action_parameters", "is not of type 'object'"),
        (
            {"action_parameters": {"LivenessType": "BLINK"}},
            "action_parameters.LivenessType",
            "is not one of ['LIP'",
        ),
        ({"action_parameters": {"LivenessType": "LIP"}}, "action_parameters", "'ValidateData'"),
        (
            {"action_parameters": {"LivenessType": "LIP", "ValidateData": "12345"}},
            "action_parameters.ValidateData",
            "does not match",
        ),
        (
            {"action_parameters": PARAMETERS | {"ValidateData": "1234"}},
            "action_parameters.ValidateData",
            "does not match",
        ),
        ({"action_parameters": PARAMETERS | {"IdCard": "1"}}, "action_parameters", "'IdCard' is"),
        (
            {"action_parameters": PARAMETERS | {"VideoBase64": "AAAA"}},
            "action_parameters",
            "'VideoBase64' is not one of ['LivenessType', 'ValidateData']",
        ),
        ({"credentials": "tencent-credentials/a"}, "credentials", "does not match"),
        ({"credentials": None}, "credentials", "is not of type 'string'"),
        ({"save_files_to": "faces\n"}, "save_files_to", "does not match"),
        ({"save_files_to": LINK}, "save_files_to", "a link with a query or a password"),
        ({"max_windows": 0}, "max_windows", "less than the minimum of 1"),
        ({"max_windows": 10**30}, "max_windows", "greater than the maximum of 1000"),
        ({"max_windows": True}, "max_windows", "is not of type 'integer'"),
        ({"max_windows": "12"}, "max_windows", "is not of type 'integer'"),
        ({"on_unknown_outcome": "ask"}, "on_unknown_outcome", "is not one of ['call_again'"),
    ],
)
def test_a_wrong_request_is_refused_by_its_field(
    one: Form, changes: dict[str, Any], field: str, reason: str
):
    said = one.refuses(REQUEST | changes)
    assert f"Validation failed for field '{field}'." in said
    assert reason in said
    # Neither the link nor the pattern that recognizes it.
    assert "://" not in said


@pytest.mark.parametrize("name", ["request_id", "target_action", "region", "resources"])
def test_what_a_request_must_have_is_named(one: Form, name: str):
    less = {key: value for key, value in REQUEST.items() if key != name}
    assert f"'{name}' is a required property" in one.refuses(less)


def test_an_action_that_wants_parameters_is_refused_without_any(one: Form):
    less = {key: value for key, value in REQUEST.items() if key != "action_parameters"}
    assert "'action_parameters' is a required property" in one.refuses(less)


def test_unknown_parameters_are_refused_by_name(one: Form, many: Form):
    assert "'manifest' was unexpected" in one.refuses(REQUEST | {"manifest": "people.csv"})
    assert "'path' was unexpected" in many.refuses({"manifest": "people.csv", "path": "x"})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"request_id": "R" * 64},
        {"resources": {"ImageUrl": "s3://bucket/a b.jpg", "VideoUrl": "what?@is#this.mp4"}},
        {"action_parameters": {"LivenessType": "LIP", "ValidateData": "0123"}},
        {"action_parameters": PARAMETERS | {"ValidateData": ""}},
        {"credentials": "production-2", "save_files_to": "faces", "max_windows": 1000},
        {"max_windows": 12.0},
    ],
)
def test_what_is_right_is_taken(one: Form, changes: dict[str, Any]):
    one.takes(REQUEST | changes)
    # Prefect validates the parameters again, in Python.
    assert deliver.validate_parameters(REQUEST | changes)


@pytest.mark.parametrize(
    ("changes", "field", "reason"),
    [
        ({"manifest": ""}, "manifest", "does not match"),
        ({"manifest": "people.csv\n"}, "manifest", "does not match"),
        ({"manifest": "people-{today}.csv"}, "manifest", "does not match"),
        ({"manifest": "https://host/people.csv?token=1"}, "manifest", "a link with a query"),
        ({"manifest": None}, "manifest", "is not of type 'string'"),
        ({"results": LINK}, "results", "a link with a query"),
        ({"results": "out\n"}, "results", "does not match"),
        ({"concurrency": 0}, "concurrency", "less than the minimum of 1"),
        ({"concurrency": 257}, "concurrency", "greater than the maximum of 256"),
        ({"concurrency": 1.5}, "concurrency", "is not of type 'integer'"),
        ({"max_failed_percent": -1}, "max_failed_percent", "less than the minimum of 0"),
        ({"max_failed_percent": 100.5}, "max_failed_percent", "greater than the maximum of 100"),
        ({"max_unknown": 0}, "max_unknown", "less than the minimum of 1"),
        ({"credentials": "My Keys"}, "credentials", "does not match"),
        ({"save_files_to": "faces\0"}, "save_files_to", "does not match"),
        ({"max_windows": 0}, "max_windows", "less than the minimum of 1"),
        ({"on_unknown_outcome": ""}, "on_unknown_outcome", "is not one of"),
    ],
)
def test_a_wrong_batch_is_refused_by_its_field(
    many: Form, changes: dict[str, Any], field: str, reason: str
):
    said = many.refuses({"manifest": "people.csv"} | changes)
    assert f"Validation failed for field '{field}'." in said
    assert reason in said


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"manifest": "in/people-{date}*.csv"},
        {"manifest": "s3://bucket/{date}/people.jsonl", "results": "s3://bucket/out"},
        {"concurrency": 256, "max_failed_percent": 2.5, "max_unknown": 1},
    ],
)
def test_a_batch_that_is_right_is_taken(many: Form, changes: dict[str, Any]):
    many.takes({"manifest": "people.csv"} | changes)


def test_every_field_says_what_it_is_and_stands_in_the_flows_order(one: Form, many: Form):
    for form, first, required in ((one, "request_id", 4), (many, "manifest", 1)):
        deployment = form.api.get(f"/deployments/{form.deployment}").json()
        schema = deployment["parameter_openapi_schema"]
        fields = sorted(schema["properties"].items(), key=lambda item: item[1]["position"])
        assert fields[0][0] == first
        assert all(field["description"] for _, field in fields)
        assert set(schema["required"]) == {name for name, _ in fields[:required]}
        assert all("default" in field for _, field in fields[required:])
    schema = one.api.get(f"/deployments/{one.deployment}").json()["parameter_openapi_schema"]
    image = schema["properties"]["resources"]["properties"]["ImageUrl"]["description"]
    assert image.startswith("JPG, PNG. For VideoLivenessCompare, ")
    data = schema["properties"]["action_parameters"]["properties"]["ValidateData"]["description"]
    assert data.startswith("4 digits for LIP")


SCHEMA = strict_schema(deliver.parameters.model_dump_for_openapi())


def _smallest(action: TargetAction) -> dict[str, Any]:
    given = {one.name: one.values[0] if one.values else "x" for one in action.parameters}
    needed = {one.name for one in action.parameters if one.required}
    request: dict[str, Any] = {
        "request_id": "r-1",
        "target_action": action.name,
        "region": action.regions[0],
        "resources": {field.name: "a" for field in action.resources if field.required},
        "action_parameters": {name: given[name] for name in needed},
    }
    if needed == {"LivenessType"}:
        request["action_parameters"]["LivenessType"] = "SILENT"
    return request


def _flow_takes(request: dict[str, Any]) -> bool:
    try:
        validate_request(read_request(**request), DeliverySettings())  # pyright: ignore[reportCallIssue]  # all have defaults, by alias
    except InvalidInput:
        return False
    return True


@pytest.mark.parametrize("action", TARGET_ACTIONS.values(), ids=lambda action: action.name)
def test_the_form_and_the_flow_agree_on_each_action(action: TargetAction):
    request = _smallest(action)
    assert is_valid(request, SCHEMA)
    assert _flow_takes(request)
    for field in ("resources", "action_parameters"):
        names = {name for one in TARGET_ACTIONS.values() for name in _names(one, field)}
        for name in (*sorted(names), "IdCard", "ImageBase64"):
            more = request | {field: {name: "x"} | request[field]}
            less = {key: value for key, value in request[field].items() if key != name}
            for changed in (more, request | {field: less}):
                if not _flow_takes(changed):
                    # The schema does not check the contents of JSON texts; only the flow does.
                    assert not is_valid(changed, SCHEMA) or name in JSON_TEXTS
                else:
                    assert is_valid(changed, SCHEMA), (field, name)
    for region in ("ap-bangkok", "ap-hongkong", "ap-singapore"):
        changed = request | {"region": region}
        assert is_valid(changed, SCHEMA) == _flow_takes(changed)


JSON_TEXTS = {"Optional", "Config", "Encryption"}
FOLDER: dict[str, Any] = SCHEMA["properties"]["save_files_to"]


def _names(action: TargetAction, field: str) -> list[str]:
    members = action.resources if field == "resources" else action.parameters
    return [member.name for member in members]


@given(st.text(alphabet="as3:/?#@ .", max_size=12).map(lambda text: text.replace("3", "://")))
def test_the_form_takes_a_link_for_one_where_the_flow_does(location: str):
    refused = not is_valid({"save_files_to": location}, {"properties": {"save_files_to": FOLDER}})
    try:
        Roots.of(("/", "x://")).resolve("resource ImageUrl", location)
        said = ""
    except InvalidInput as error:
        said = str(error)
    if "with a query or a password" in said:
        assert refused
    elif refused:
        assert said
