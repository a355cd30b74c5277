"""Every target action as data: what it takes, where it runs, how its answer reads.

The client checks input against this table before anything is sent, the emulator checks requests
against the same table, and the flows' forms are made from it. ``FACEID_ACTIONS`` adds actions in
the same form (``load_actions``).

Source: fact sheet §5 (5.1 summary, 5.2 parameters and replies, 5.3 limits).
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from faceid.errors import InvalidInput

API_VERSION = "2018-03-01"
SERVICE = "faceid"

Format = Literal["JPG", "PNG", "MP4", "AVI", "FLV"]

# MB is read as 2^20 bytes, the larger of its two meanings: where a file is surely too large we
# refuse it, and in between the service decides (fact sheet §5.3, §8.9).
MB = 1024 * 1024


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ResourceField(_Data):
    """A field of a target action that takes a URL.

    ``inline`` names the field that takes the same file as base64 text instead; sent only where a
    manifest gives it, so a required resource is required from our callers whether or not the API
    has an inline form.
    """

    name: str
    md5_field: str | None = None
    required: bool = True
    formats: tuple[Format, ...] = ()
    """Accepted formats, told by their first bytes; empty: none is documented."""
    max_base64_bytes: int | None = None
    """Limit on the length of the file *after* base64 encoding, in bytes."""
    download_seconds: float | None = None
    """How long the service takes at most to fetch the file, where documented."""
    inline: str | None = None
    inline_wins: bool = False

    @property
    def max_bytes(self) -> int | None:
        """The largest file in raw bytes whose base64 form is within the limit."""
        return None if self.max_base64_bytes is None else self.max_base64_bytes // 4 * 3


class Parameter(_Data):
    """A parameter of a target action that is not a file.

    ``patterns`` are regular expressions that the whole value must match; the key is the value of
    the parameter named by ``depends_on``, or ``""`` where nothing is depended on. An empty
    pattern says that the parameter must be absent or empty.
    """

    name: str
    required: bool = False
    type: Literal["string", "boolean", "object", "json-text"] = "string"
    """How the value is sent: ``object`` is given as JSON text and sent as an object."""
    values: tuple[str, ...] = ()
    depends_on: str | None = None
    patterns: dict[str, str] = {}
    expects: str = ""
    """What a right value looks like, for people."""


class Reading(_Data):
    """How an answer becomes a verdict.

    ``passed``: the values of ``Result`` that mean yes; empty: the action gives no verdict at all.
    ``error_codes``: values of ``Result`` that are no verdicts, with the API code they amount to.
    """

    passed: tuple[str, ...] = ()
    error_codes: dict[str, str] = {}


class AnswerFile(_Data):
    """A file that an answer points to, for two hours: dotted names of its URL and MD5 fields."""

    url: str
    md5: str
    suffix: str


class TargetAction(_Data):
    name: str
    resources: tuple[ResourceField, ...]
    parameters: tuple[Parameter, ...] = ()
    personal_parameters: tuple[str, ...] = ()
    """They carry a person's data and override the resource: taken from a manifest only."""
    regions: tuple[str, ...]
    rate: float | None = None
    """Requests per second and account; ``None``: not documented."""
    reading: Reading = Reading(passed=("Success",))
    secret_fields: tuple[str, ...] = ()
    """Answer fields that must not be shown, over and above the URLs of ``files``."""
    files: tuple[AnswerFile, ...] = ()
    notice: str = ""
    """What a caller should know before it is sent: withdrawn, closed to new customers."""

    def resource(self, name: str) -> ResourceField | None:
        return next((field for field in self.resources if field.name == name), None)

    @property
    def md5_fields(self) -> tuple[str, ...]:
        return tuple(field.md5_field for field in self.resources if field.md5_field)


UPLOAD_REGIONS = ("ap-bangkok", "ap-hongkong", "ap-singapore")
CREATE_UPLOAD_URL = "CreateUploadUrl"
CREATE_UPLOAD_URL_RATE = 20.0
"""Requests per second (fact sheet §4)."""


_LIVENESS_PARAMETERS = (
    Parameter(name="LivenessType", required=True, values=("LIP", "ACTION", "SILENT")),
    Parameter(
        name="ValidateData",
        depends_on="LivenessType",
        patterns={"LIP": r"[0-9]{4}", "ACTION": r"1,2|2,1", "SILENT": ""},
        expects="4 digits for LIP, 1,2 or 2,1 for ACTION, nothing for SILENT",
    ),
)


def _image(
    name: str = "ImageUrl", *, md5_field: str | None = None, inline: str | None = None, **more: Any
) -> ResourceField:
    limits: dict[str, Any] = {"formats": ("JPG", "PNG"), "max_base64_bytes": 3 * MB, **more}
    return ResourceField(name=name, md5_field=md5_field, inline=inline, **limits)


def _card_image(name: str, *, inline: str, required: bool = True) -> ResourceField:
    return _image(
        name, inline=inline, required=required, max_base64_bytes=5 * MB, download_seconds=3
    )


_WITHDRAWN = "withdrawn from the vendor's SDKs in March 2026; the service decides"


def _video(*, md5_field: str | None = None, inline: str | None = None) -> ResourceField:
    return ResourceField(
        name="VideoUrl",
        md5_field=md5_field,
        formats=("MP4", "AVI", "FLV"),
        max_base64_bytes=8 * MB,
        download_seconds=4,
        inline=inline,
        inline_wins=inline is not None,
    )


_TABLE = (
    TargetAction(
        name="VideoLivenessCompare",
        resources=(_image(md5_field="ImageMd5"), _video(md5_field="VideoMd5")),
        parameters=_LIVENESS_PARAMETERS,
        regions=UPLOAD_REGIONS,
        rate=20,
        files=(AnswerFile(url="BestFrame.Url", md5="BestFrame.MD5", suffix=".jpg"),),
    ),
    TargetAction(
        name="DetectReflectLivenessAndCompare",
        resources=(
            ResourceField(name="LiveDataUrl", md5_field="LiveDataMd5"),
            ResourceField(name="ImageUrl", md5_field="ImageMd5"),
        ),
        regions=UPLOAD_REGIONS,
        rate=5,
        files=(AnswerFile(url="BestFrameUrl", md5="BestFrameMd5", suffix=".jpg"),),
    ),
    TargetAction(
        name="GenerateReflectSequence",
        # The file is the base64 text of the DeviceData JSON, and the MD5 is of that text.
        resources=(ResourceField(name="DeviceDataUrl", md5_field="DeviceDataMd5"),),
        parameters=(Parameter(name="SecurityLevel", values=("1", "2", "3", "4")),),
        regions=UPLOAD_REGIONS,
        rate=5,
        reading=Reading(),
        files=(AnswerFile(url="ReflectSequenceUrl", md5="ReflectSequenceMd5", suffix=".bin"),),
    ),
    TargetAction(
        name="LivenessCompare",
        resources=(
            _image(inline="ImageBase64", inline_wins=True),
            _video(inline="VideoBase64"),
        ),
        parameters=(
            *_LIVENESS_PARAMETERS,
            Parameter(name="Optional", type="json-text", expects='JSON, {"BestFrameNum": 2..10}'),
        ),
        regions=UPLOAD_REGIONS,
        rate=100,
        secret_fields=("BestFrameBase64", "BestFrameList"),
        notice="closed to new customers",
    ),
    TargetAction(
        name="CheckIdCardInformation",
        resources=(_image(inline="ImageBase64", download_seconds=3),),
        parameters=(
            Parameter(name="Config", type="json-text", expects="a JSON object of switches"),
            Parameter(name="IsEncrypt", type="boolean"),
            Parameter(name="IsEncryptResponse", type="boolean"),
            Parameter(name="Encryption", type="object"),
        ),
        regions=UPLOAD_REGIONS,
        secret_fields=(
            "Name",
            "Sex",
            "Nation",
            "Birth",
            "Address",
            "IdNum",
            "Portrait",
            "EncryptedBody",
        ),
    ),
    TargetAction(
        name="IdCardOCRVerification",
        resources=(_image(inline="ImageBase64", inline_wins=True, download_seconds=3),),
        parameters=(Parameter(name="Encryption", type="object"),),
        personal_parameters=("IdCard", "Name"),
        regions=UPLOAD_REGIONS,
        rate=100,
        reading=Reading(
            passed=("0",),
            error_codes={
                "-4": "InternalError",  # the register's fault
                "-6": "ServiceUnavailable",  # it is being upgraded
                "-7": "LimitExceeded",  # the day's calls are used up
            },
        ),
        secret_fields=("Name", "IdCard", "Sex", "Nation", "Birth", "Address"),
    ),
    TargetAction(
        name="ApplyWebVerificationToken",
        resources=(ResourceField(name="CompareImageUrl", md5_field="CompareImageMd5"),),
        parameters=(Parameter(name="RedirectUrl", required=True, expects="a web address"),),
        # also in ap-jakarta, where there is no CreateUploadUrl
        regions=("ap-singapore",),
        rate=20,
        reading=Reading(),
        secret_fields=("VerificationUrl", "BizToken"),
        notice=_WITHDRAWN,
    ),
    TargetAction(
        name="ApplyCardVerification",
        resources=(
            _card_image("ImageUrlFront", inline="ImageBase64Front"),
            _card_image("ImageUrlBack", inline="ImageBase64Back", required=False),
        ),
        parameters=(
            Parameter(
                name="Nationality",
                required=True,
                values=("IDN", "HKG", "THA", "MYS", "SGP", "JPN", "TWN", "AUTO"),
            ),
            Parameter(
                name="CardType",
                required=True,
                values=("ID_CARD", "PASSPORT", "DRIVING_LICENSE", "AUTO"),
            ),
        ),
        regions=("ap-hongkong", "ap-singapore"),
        reading=Reading(),
        secret_fields=("CardVerificationToken",),
        notice=_WITHDRAWN,
    ),
)

TARGET_ACTIONS: dict[str, TargetAction] = {action.name: action for action in _TABLE}


def load_actions(path: Path) -> dict[str, TargetAction]:
    """The table with the actions of a JSON file added: a list of objects in the table's form.

    An action of the same name replaces ours. Raises ``InvalidInput`` with the file's name and
    the place in it.
    """
    try:
        added = TypeAdapter(list[TargetAction]).validate_json(path.read_bytes())
    except OSError as error:
        raise InvalidInput("FACEID_ACTIONS", f"cannot read {path}: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InvalidInput("FACEID_ACTIONS", f"{path}: {place}: {first['msg']}") from None
    return TARGET_ACTIONS | {action.name: action for action in added}


def find_action(name: str, actions: Mapping[str, TargetAction] = TARGET_ACTIONS) -> TargetAction:
    """Raises ``InvalidInput`` when there is no such action."""
    if name not in actions:
        known = ", ".join(sorted(actions))
        raise InvalidInput("UnknownTargetAction", f"there is no target action {name!r}: {known}")
    return actions[name]


def check_parameters(action: TargetAction, given: Mapping[str, str]) -> dict[str, Any]:
    """The parameters as the API wants them, from the texts that a caller gave.

    Raises ``InvalidInput`` that names the parameter and what it should be.
    """
    known = {parameter.name: parameter for parameter in action.parameters}
    for name in given:
        if name in known:
            continue
        if name in action.personal_parameters or name.endswith("Base64"):
            reason = "carries a person's data; hand over the file as a resource instead"
        elif name in action.md5_fields:
            reason = "is computed from the file; leave it out"
        elif action.resource(name):
            reason = "is a resource, not a parameter"
        else:
            reason = f"is no parameter of {action.name} ({', '.join(known) or 'it has none'})"
        raise InvalidInput("InvalidParameter", f"parameter {name} {reason}")
    return {
        parameter.name: value
        for parameter in action.parameters
        if (value := _check_parameter(parameter, given)) is not None
    }


def _check_parameter(parameter: Parameter, given: Mapping[str, str]) -> Any:
    value = given.get(parameter.name, "")
    expects = parameter.expects or " or ".join(parameter.values)
    pattern = parameter.patterns.get(
        given.get(parameter.depends_on, "") if parameter.depends_on else ""
    )
    if pattern == "":
        if value:
            raise _wrong(parameter, expects)
        return None
    if not value:
        if parameter.required or (pattern and parameter.depends_on):
            raise InvalidInput(
                "MissingParameter", f"parameter {parameter.name} is missing: {expects}"
            )
        return None
    if (parameter.values and value not in parameter.values) or (
        pattern and not re.fullmatch(pattern, value)
    ):
        raise _wrong(parameter, expects)
    match parameter.type:
        case "boolean":
            if value.lower() not in ("true", "false"):
                raise _wrong(parameter, "true or false")
            return value.lower() == "true"
        case "object" | "json-text":
            try:
                parsed: Any = json.loads(value)
            except ValueError:
                raise _wrong(parameter, "a JSON object") from None
            if not isinstance(parsed, dict):
                raise _wrong(parameter, "a JSON object")
            return value if parameter.type == "json-text" else cast("dict[str, Any]", parsed)
        case "string":
            return value


def _wrong(parameter: Parameter, expects: str) -> InvalidInput:
    # The value is not repeated: it stands in the caller's hands, and may be a person's.
    return InvalidInput("InvalidParameterValue", f"parameter {parameter.name} must be {expects}")
