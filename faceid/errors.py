"""Error classes, and the next step for each of them.

::

    FaceIdError
    ├── InvalidInput          the caller's mistake: correct the input, then deliver again
    │   └── RequestIdConflict   the request ID was used for a different input
    ├── AccountError          keys, permissions, payment, quota: the account needs attention
    │   ├── ClockSkewed         the signature's time was refused: sign again with the server's time
    │   └── TokenExpired        temporary credentials expired: read them again, once
    ├── ServiceUnavailable    the service or the network failed: retry with increasing delays
    │   ├── RateLimited         too many calls per second: wait, then retry
    │   ├── NoAnswer            sent, but no readable answer came: the outcome is unknown
    │   ├── ResourceUnreadable  the service could not read an upload: check the window first
    │   └── UrlRefused          the store refused a URL of the service: fresh ticket, once
    ├── WindowOver            the upload ticket has expired: fresh ticket, fresh upload
    ├── ServiceRefused        an undocumented code: not retried, as the call may be billed
    ├── StorageError          stored data about a request cannot be read or written
    ├── OutcomeUnknown        a call was sent, its answer was lost, and it must not be repeated
    └── DeliveryFailed        a delivery ended without a verdict (in ``faceid.models``)

Every error code of the API and of its object store maps to exactly one of these classes, or is a
verdict: see ``error_class`` and ``store_error_class``. The codes listed here are documented by the
vendor, unless a comment says otherwise. The service may return others; an API code that is not
listed is classified by its first segment.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar, Literal

from faceid.redaction import redact

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

ErrorKind = Literal["input", "conflict", "account", "unavailable", "storage", "expired", "unknown"]
"""Kind of an error, as stated in results and events."""


KEY_NAMES = {
    "secret_id": "the secret ID",
    "secret_key": "the secret key",
    "token": "token",
}
"""What advice calls the parts of an API key, unless the credentials say where they come from."""


class NextStep(StrEnum):
    """What to do after an error."""

    MEND_INPUT = "correct the input"
    MEND_ACCOUNT = "act on the account"
    SIGN_AGAIN = "sign again with the server's time"
    RENEW_CREDENTIALS = "read the credentials again, once"
    RETRY = "try again with increasing delays"
    DECIDE = "try again, unless a target action was called: that may have been billed"
    WAIT = "wait for the rate window, then try again"
    CHECK_RESOURCE = "check the window and the upload, then open a new window or try again"
    NEW_WINDOW = "fresh ticket, fresh upload"
    NEW_URL_ONCE = "fresh ticket, fresh upload, once"
    GIVE_UP = "give up"


class FaceIdError(Exception):
    """Base class of all errors. Never contains a presigned URL, a key or a signature.

    ``code`` is the service's error code, or one of ours if the service gave none. ``message`` says
    what is wrong. ``tencent_request_id`` identifies the call that failed, and ``host`` is the name
    and port of the server; each is ``None`` if it is not known. ``advice`` tells a person what to
    do; by default it is the advice for the code or, if there is none, for the class.

    Example::

        async with FaceIdClient.from_environment() as client:
            try:
                await client.verify(
                    "VideoLivenessCompare",
                    "ap-singapore",
                    files={"ImageUrl": "id-photo.jpg", "VideoUrl": "nowhere.mp4"},
                    parameters={"LivenessType": "SILENT"},
                )
            except FaceIdError as error:
                print(error.code, error.kind, error.next_step.value, error.advice)
    """

    kind: ClassVar[ErrorKind] = "unavailable"
    """The kind of all errors of the class."""
    next_step: ClassVar[NextStep] = NextStep.GIVE_UP
    """What the caller of the library should do."""
    default_advice: ClassVar[str] = ""
    """What a person should do about errors of the class, unless ``advice`` is given."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        tencent_request_id: str | None = None,
        host: str | None = None,
        advice: str | None = None,
    ) -> None:
        self.code = code
        self.message = redact(message)
        self.tencent_request_id = tencent_request_id
        self.host = host
        self._advice = ADVICE.get(code, self.default_advice) if advice is None else advice
        self.advice = self._advice.format_map(KEY_NAMES)
        super().__init__(code, self.message)

    def name_credentials(self, names: Mapping[str, str]) -> None:
        """Let the advice name the parts of the key as in ``names``, with the keys of KEY_NAMES."""
        self.advice = self._advice.format_map(names)

    def __str__(self) -> str:
        where = ", ".join(
            part
            for part in (
                self.host,
                self.tencent_request_id and f"Tencent request ID {self.tencent_request_id}",
            )
            if part
        )
        text = f"{self.code}: {self.message}" + (f" ({where})" if where else "")
        return f"{text.rstrip('.')}. {self.advice}" if self.advice else text


class InvalidInput(FaceIdError):
    """The input or the configuration is wrong. Trying again without a correction cannot help."""

    kind = "input"
    next_step = NextStep.MEND_INPUT
    location: str = ""
    """Absolute path or URL of the file that the error is about, if there is one.

    It is not part of the message, because paths must not get into logs. A command may show it to
    the person who gave it; a URL may contain a secret, which ``redact`` removes.
    """


def reason_of(error: "ErrorDetails") -> str:
    """Return what pydantic says is wrong, without the prefix that it puts before our own words."""
    return error["msg"].removeprefix("Value error, ")


class RequestIdConflict(InvalidInput):
    """The request ID has already been used for a different input."""

    kind = "conflict"
    default_advice = "Use a different request ID for each input."


class AccountError(FaceIdError):
    """The service refuses the account: its key, its permissions, its payment or its quota."""

    kind = "account"
    next_step = NextStep.MEND_ACCOUNT
    default_advice = (
        "Check the account in the Tencent Cloud console: its keys, permissions and payment."
    )


class ClockSkewed(AccountError):
    """The service refuses a request because its time is too far from the server's."""

    next_step = NextStep.SIGN_AGAIN
    default_advice = "This machine's clock is more than 5 minutes off: set it."


class TokenExpired(AccountError):
    """The service refuses the token of temporary credentials."""

    next_step = NextStep.RENEW_CREDENTIALS
    default_advice = "Get a new {token}, with the secret ID and the secret key that belong to it."


class ServiceUnavailable(FaceIdError):
    """The service or the network failed. Trying again later may succeed."""

    kind = "unavailable"
    next_step = NextStep.RETRY
    default_advice = "Deliver the same request again later."


class RateLimited(ServiceUnavailable):
    """The service throttled a call, because the account made too many calls per second."""

    next_step = NextStep.WAIT
    default_advice = (
        "Another program may be using the account, or FACEID_RATES may exceed the account's quota."
    )


class NoAnswer(ServiceUnavailable):
    """A call was sent, but no readable answer came. It is unknown whether it was executed."""

    next_step = NextStep.DECIDE


class ResourceUnreadable(ServiceUnavailable):
    """The service could not download an uploaded file, whose window may be over."""

    next_step = NextStep.CHECK_RESOURCE
    default_advice = "The upload and the target action must use the same region."


class UrlRefused(ServiceUnavailable):
    """The store refused a URL that the service had signed."""

    next_step = NextStep.NEW_URL_ONCE


class WindowOver(FaceIdError):
    """An upload ticket, or a file in the store, has expired or is about to expire."""

    kind = "expired"
    next_step = NextStep.NEW_WINDOW
    default_advice = "Deliver the same request again: it gets a fresh upload ticket."


class ServiceRefused(FaceIdError):
    """The service answered in a way that is not documented. Trying again might be billed again."""

    kind = "unavailable"
    default_advice = (
        "Not retried, as the call may be billed: contact the vendor with the Tencent request ID."
    )


class StorageError(FaceIdError):
    """Something that is stored about requests cannot be read or written."""

    kind = "storage"
    default_advice = "Check FACEID_STORAGE and FACEID_DATA_KEY."


class OutcomeUnknown(FaceIdError):
    """A call was sent and its answer was lost, and the caller does not want it to be repeated."""

    kind = "unknown"
    default_advice = (
        "The call may have been billed. To call the action again, deliver with call_again."
    )


ADVICE = {
    "AuthFailure.InvalidSecretId": "Check {secret_id}: it must be the ID of an API key.",
    "AuthFailure.SecretIdNotFound": "Check {secret_id}: the service knows no such key.",
    "AuthFailure.SignatureFailure": "Check {secret_key}: it does not match the secret ID.",
    "UnauthorizedOperation.Nonactivated": "Activate Face ID for this account in the console.",
    "UnauthorizedOperation.Arrears": "The account has overdue payments: pay, then deliver again.",
    "ActionOffline": "The vendor has withdrawn this action.",
    "InvalidAction": "This endpoint does not know the action: check FACEID_ENDPOINT.",
}
"""Advice by error code, where a code allows more precise advice than its class."""


# Classes by a code's first segment. For most `FailedOperation` and `InternalError` codes, the
# sub-code decides: see _VERDICT_CODES and _BY_CODE.
_BY_FIRST_SEGMENT: dict[str, type[FaceIdError]] = {
    "AuthFailure": AccountError,
    "UnauthorizedOperation": AccountError,
    "LimitExceeded": AccountError,
    "IpInBlacklist": AccountError,
    "IpNotInWhitelist": AccountError,
    "DryRunOperation": AccountError,
    "InternalError": ServiceRefused,
    "FailedOperation": InvalidInput,
    "RequestLimitExceeded": RateLimited,
    "ResourceInsufficient": ServiceUnavailable,
    "ResourceUnavailable": ServiceUnavailable,
    "ServiceUnavailable": ServiceUnavailable,
    "ResourceInUse": InvalidInput,
    "ResourceNotFound": InvalidInput,
    "InvalidParameter": InvalidInput,
    "InvalidParameterValue": InvalidInput,
    "MissingParameter": InvalidInput,
    "UnknownParameter": InvalidInput,
    "InvalidRequest": InvalidInput,
    "RequestSizeLimitExceeded": InvalidInput,
    "ResponseSizeLimitExceeded": InvalidInput,
    "UnsupportedProtocol": InvalidInput,
    "InvalidAction": InvalidInput,
    "NoSuchVersion": InvalidInput,
    "NoSuchProduct": InvalidInput,
    "ActionOffline": InvalidInput,
    "UnsupportedRegion": InvalidInput,
    "UnsupportedOperation": InvalidInput,
    "OperationDenied": InvalidInput,
}


def _codes(prefix: str, names: str) -> list[str]:
    return [f"{prefix}.{name}" for name in names.split()]


_VERDICT_CODES = frozenset(
    _codes(
        "FailedOperation",
        """
        CompareLowSimilarity CompareFail LivessDetectFail LivessDetectFake LivessBestFrameError
        LifePhotoDetectFaces LifePhotoDetectNoFaces LifePhotoDetectFake LifePhotoPoorQuality
        ImageBlur ImageNoIdCard OcrFailed OcrWarningOccurred PoorImageQuality CoveredFace
        IncompleteFace ActionCloseEye ActionFaceClose ActionFaceFar ActionFaceLeft ActionFaceRight
        ActionFirstAction ActionLightDark ActionLightStrong ActionNodetectFace ActionOpenMouth
        LipFaceIncomplete LipMoveSmall LipVideoQuaility LipVoiceDetect LipVoiceLow
        LipVoiceRecognize SilentDetectFail SilentEyeLiveFail SilentFaceDetectFail
        SilentFaceQualityFail SilentFaceWithMaskFail SilentMouthLiveFail SilentMultiFaceFail
        SilentPictureLiveFail SilentThreshold IdNameMisMatch IdNoExistSystem IdPhotoNoExist
        IdPhotoPoorQuality
        """,
    )
    # These codes look like internal errors, but are verdicts: the same files would get the same
    # answer again.
    + _codes(
        "InternalError",
        """
        ActionLightDark ActionLightStrong ActionNodetectFace CompareLowSimilarity
        LifePhotoPoorQuality
        """,
    )
)

_BY_CODE: dict[str, type[FaceIdError]] = {
    **dict.fromkeys(
        [
            "InternalError",
            *_codes("InternalError", "UnKnown EncryptSystemError"),
            *_codes(
                "FailedOperation",
                """
                LivessSystemError LivessUnknownError CompareSystemError CompareLibServiceUnavailable
                DetectEngineSystemError EncryptSystemError DecryptSystemError FileSaveError
                IdPhotoSystemNoanswer UnKnown UnKnowError CompressVideoError
                """,
            ),
        ],
        ServiceUnavailable,
    ),
    **dict.fromkeys(
        [
            *_codes("FailedOperation", "DownLoadError DownLoadTimeoutError LipNetFailed"),
            "ResourceUnavailable.ImageDownloadError",
        ],
        ResourceUnreadable,
    ),
    "FailedOperation.RequestLimitExceeded": RateLimited,
    **dict.fromkeys(
        [
            *_codes("FailedOperation", "IdentityAuthLimitExceeded StsUnAuthErrError UnOpenError"),
            *_codes("ResourceUnavailable", "InArrears ResourcePackageRunOut"),
        ],
        AccountError,
    ),
    **dict.fromkeys(
        [
            *_codes(
                "FailedOperation",
                """
                ImageSizeTooLarge ImageDecodeFailed EmptyImageError LifePhotoSizeError LipSizeError
                LipVideoInvalid VideoDecodeFailed VideoDurationExceeded SilentTooShort
                IdFormatError NameFormatError
                """,
            ),
            "InvalidParameter.EngineImageDecodeFailed",
            "InvalidParameter.UnsupportEncryptField",
            "InvalidParameterValue.InvalidFileContentSize",
            "InvalidParameterValue.InvalidParameterValueLimit",
            "InternalError.LifePhotoSizeError",
        ],
        InvalidInput,
    ),
    "AuthFailure.SignatureExpire": ClockSkewed,
    "AuthFailure.TokenFailure": TokenExpired,
}


def error_class(code: str) -> type[FaceIdError] | None:
    """Return the error class of an API code, or ``None`` if the code is a verdict.

    Codes are looked up individually first, and then by their first segment. If that is unknown,
    too, the class is ``ServiceRefused``, which is never retried.
    """
    if code in _VERDICT_CODES:
        return None
    if code in _BY_CODE:
        return _BY_CODE[code]
    return _BY_FIRST_SEGMENT.get(code.partition(".")[0], ServiceRefused)


def known_error_class(code: str) -> type[FaceIdError] | None:
    """Return the error class of a value of ``Result`` in an answer; ``None`` if it is a verdict.

    The vendor documents no complete list of these values. An unknown value is therefore taken for a
    negative verdict, whereas ``error_class`` takes an unknown code for an error.
    """
    return _BY_CODE.get(code) or (None if "." in code else _BY_FIRST_SEGMENT.get(code))


# Error codes of the object store.
_STORE_CODES: dict[str, type[FaceIdError]] = {
    **dict.fromkeys(["Request has expired", "NoSuchKey"], WindowOver),
    **dict.fromkeys(["SignatureDoesNotMatch", "InvalidAccessKeyId"], UrlRefused),
    "RequestTimeTooSkewed": ClockSkewed,
    **dict.fromkeys(
        [
            "BadDigest",  # the body was damaged in transit
            "IncompleteBody",
            "EntitySizeNotMatch",
            # These come with HTTP 400, but are not caused by the request.
            "RequestTimeout",
            "UserNetworkTooSlow",
            "InternalError",
            "ServiceUnavailable",
        ],
        ServiceUnavailable,
    ),
    "SlowDown": RateLimited,
    **dict.fromkeys(
        ["InvalidDigest", "EntityTooLarge", "MethodNotAllowed", "MissingContentLength"],
        InvalidInput,
    ),
    "NoSuchBucket": AccountError,
}


def store_error_class(status: int, code: str, message: str = "") -> type[FaceIdError]:
    """Return the error class of a refusal of the object store.

    ``status`` is the HTTP status; ``code`` and ``message`` are those of the reply's XML. The status
    decides if the code is not listed.
    """
    if code == "AccessDenied":
        # The code covers both an expired URL and missing permissions: only the message differs
        # (observed).
        return WindowOver if "expired" in message.lower() else AccountError
    if code in _STORE_CODES:
        return _STORE_CODES[code]
    if status == 429:
        return RateLimited
    if status >= 500 or status < 400 or status == 408:
        return ServiceUnavailable
    return UrlRefused if status in (403, 404) else InvalidInput
