"""The table of target actions: their resources, parameters, regions and answers.

The library checks requests against this table before anything is sent, and the emulator checks the
calls that it receives against the same table. ``FACEID_ACTIONS`` adds actions in the same format
(see ``load_actions``).

Source: the vendor's API documentation, unless a comment says otherwise.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from faceid.errors import InvalidInput, reason_of

API_VERSION = "2018-03-01"
"""Version of the API, which every call sends as ``X-TC-Version``."""
SERVICE = "faceid"
"""The API's service name, which is part of the scope of every signature."""

Format = Literal["JPG", "PNG", "MP4", "AVI", "FLV"]
"""The formats of images and videos that some target action accepts."""

# The documentation does not say whether a megabyte is 10^6 or 2^20 bytes. The larger value is used,
# so that this library refuses only files that are too large in either case.
MB = 1024 * 1024
"""Bytes in a megabyte of the documented size limits."""


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ResourceField(_Data):
    """A field of a target action that takes the URL of a file."""

    name: str
    """Name of the field in the API, such as ``ImageUrl``."""
    md5_field: str | None = None
    """Name of the field that takes the file's MD5; ``None`` if the action has no such field."""
    required: bool = True
    """Whether a request must have this resource, even if the API would accept the inline field."""
    formats: tuple[Format, ...] = ()
    """Accepted formats, recognized by a file's first bytes; empty if none are documented."""
    max_base64_bytes: int | None = None
    """Largest accepted size in bytes *after* base64 encoding; ``None`` if not documented."""
    download_seconds: float | None = None
    """Seconds within which the service must be able to download the file; ``None`` if not
    documented."""
    inline: str | None = None
    """Name of the field that takes the same file as base64 text; ``None`` if the action has no such
    field. Only a request from a manifest may contain it."""
    inline_wins: bool = False
    """Whether the API ignores the URL if a call has both the URL and the inline field."""

    @property
    def max_bytes(self) -> int | None:
        """Size in bytes of the largest accepted file; ``None`` if no limit is documented."""
        return None if self.max_base64_bytes is None else self.max_base64_bytes // 4 * 3


class Parameter(_Data):
    """A parameter of a target action that is not a resource."""

    name: str
    """Name of the parameter in the API."""
    required: bool = False
    """Whether a request must have this parameter."""
    type: Literal["string", "boolean", "object", "json-text"] = "string"
    """Type in which the value is sent. Callers give every value as text: ``true`` or ``false`` for
    a ``boolean``, and the text of a JSON object for ``object`` and ``json-text``. ``json-text`` is
    sent as that text, ``object`` as the object itself."""
    values: tuple[str, ...] = ()
    """The allowed values; empty if they are not restricted to a list."""
    depends_on: str | None = None
    """Name of another parameter, whose value selects the pattern that applies."""
    patterns: dict[str, str] = {}
    """Regular expressions that the whole value must match, by the value of the parameter that
    ``depends_on`` names, or by ``""`` without ``depends_on``. An empty expression means that the
    parameter must be absent or empty."""
    expects: str = ""
    """Description of a valid value, for error messages."""


class Reading(_Data):
    """How to read a verdict from an answer's field ``Result``."""

    passed: tuple[str, ...] = ()
    """Values that mean a positive verdict; empty if the action gives no verdict."""
    error_codes: dict[str, str] = {}
    """Maps values that report a failure instead of a verdict to the API's code for that failure."""


class AnswerFile(_Data):
    """A file that an answer links to with a temporary URL.

    The file and its URL are valid for two hours (documented for DetectReflectLivenessAndCompare,
    assumed for other actions).
    """

    url: str
    """Dotted name of the answer's field with the URL, such as ``BestFrame.Url``."""
    md5: str
    """Dotted name of the answer's field with the file's MD5."""
    suffix: str
    """Suffix for the name of a saved file, such as ``.jpg``."""


class TargetAction(_Data):
    """A target action of the API.

    Example::

        action = TargetAction(
            name="DetectMask",
            resources=(ResourceField(name="ImageUrl", formats=("JPG", "PNG")),),
            parameters=(Parameter(name="Mode", required=True, values=("FAST", "STRICT")),),
            regions=("ap-singapore",),
            reading=Reading(passed=("NoMask",)),
        )
    """

    name: str
    """Name of the action in the API, such as ``VideoLivenessCompare``."""
    resources: tuple[ResourceField, ...]
    """The fields that take URLs of files."""
    parameters: tuple[Parameter, ...] = ()
    """The other parameters that callers may give."""
    personal_parameters: tuple[str, ...] = ()
    """Names of parameters with personal data that take precedence over the resources. They are
    accepted only from a manifest."""
    regions: tuple[str, ...]
    """Regions in which both the action and CreateUploadUrl are available."""
    rate: float | None = None
    """Calls per second that an account may make; ``None`` if not documented."""
    reading: Reading = Reading(passed=("Success",))
    """How to read a verdict from the answer."""
    secret_fields: tuple[str, ...] = ()
    """Fields of the answer that must not be shown, in addition to the URLs of ``files``."""
    files: tuple[AnswerFile, ...] = ()
    """The files that the answer links to."""
    notice: str = ""
    """A restriction that callers should know about, such as ``closed to new customers``."""

    def resource(self, name: str) -> ResourceField | None:
        """Return the resource field of this name; ``None`` if the action has no such field."""
        return next((field for field in self.resources if field.name == name), None)

    @property
    def md5_fields(self) -> tuple[str, ...]:
        """Names of the fields that take the MD5s of resources."""
        return tuple(field.md5_field for field in self.resources if field.md5_field)


UPLOAD_REGIONS = ("ap-bangkok", "ap-hongkong", "ap-singapore")
"""Regions in which CreateUploadUrl is available (documented)."""
CREATE_UPLOAD_URL = "CreateUploadUrl"
"""Name of the action that returns upload tickets."""
CREATE_UPLOAD_URL_RATE = 20.0
"""Calls of CreateUploadUrl per second that an account may make (documented)."""


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
        # The file contains the JSON text DeviceData, encoded as base64. The MD5 is that of the
        # encoded file.
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
                "-4": "InternalError",  # internal error of the register
                "-6": "ServiceUnavailable",  # the register is being upgraded
                "-7": "LimitExceeded",  # the daily limit of calls is reached
            },
        ),
        secret_fields=("Name", "IdCard", "Sex", "Nation", "Birth", "Address"),
    ),
    TargetAction(
        name="ApplyWebVerificationToken",
        resources=(ResourceField(name="CompareImageUrl", md5_field="CompareImageMd5"),),
        parameters=(Parameter(name="RedirectUrl", required=True, expects="a web address"),),
        # The action is also available in ap-jakarta, but CreateUploadUrl is not.
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
"""The built-in target actions, by name."""


def load_actions(path: Path) -> dict[str, TargetAction]:
    """Return the built-in target actions and those of a JSON file, by name.

    The file contains a list of objects with the fields of ``TargetAction``. An action that has the
    name of a built-in one replaces it. Raises ``InvalidInput``, with the path of the file and the
    position of the error, if the file cannot be read or is invalid.

    Example::

        path = Path("actions.json")
        path.write_text(
            '[{"name": "DetectMask", "resources": [{"name": "ImageUrl"}],'
            ' "regions": ["ap-singapore"], "reading": {"passed": ["NoMask"]}}]'
        )
        action = load_actions(path)["DetectMask"]
    """
    try:
        added = TypeAdapter(list[TargetAction]).validate_json(path.read_bytes())
    except OSError as error:
        raise InvalidInput("FACEID_ACTIONS", f"cannot read {path}: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InvalidInput("FACEID_ACTIONS", f"{path}: {place}: {reason_of(first)}") from None
    return TARGET_ACTIONS | {action.name: action for action in added}


def find_action(name: str, actions: Mapping[str, TargetAction] = TARGET_ACTIONS) -> TargetAction:
    """Return the target action of this name. Raises ``InvalidInput`` if ``actions`` has none."""
    if name not in actions:
        known = ", ".join(sorted(actions))
        raise InvalidInput(
            "UnknownTargetAction", f"there is no target action {name!r}, but there are {known}"
        )
    return actions[name]


def check_parameters(action: TargetAction, given: Mapping[str, str]) -> dict[str, Any]:
    """Check a caller's parameters, and return them with the types that the API takes.

    ``given`` maps names to texts. Parameters that are absent or empty are left out of the result.
    Raises ``InvalidInput``, naming the parameter and what is expected, if a parameter is missing,
    unknown or invalid.
    """
    known = {parameter.name: parameter for parameter in action.parameters}
    for name in given:
        if name in known:
            continue
        if name in action.personal_parameters or name.endswith("Base64"):
            reason = "contains personal data; pass the file as a resource instead"
        elif name in action.md5_fields:
            reason = "is computed from the file; leave it out"
        elif action.resource(name):
            reason = "is a resource, not a parameter"
        else:
            reason = f"is not a parameter of {action.name} ({', '.join(known) or 'it has none'})"
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
                "MissingParameter", f"parameter {parameter.name} is missing; it must be {expects}"
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
    # The message does not contain the value, which may be personal data.
    return InvalidInput("InvalidParameterValue", f"parameter {parameter.name} must be {expects}")
