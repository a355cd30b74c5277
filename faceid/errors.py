"""What can go wrong, and for each thing what to do next.

::

    FaceIdError
    ├── InvalidInput          the caller's mistake: mend the input, then deliver again
    │   └── RequestIdConflict   the request ID belongs to another input
    ├── AccountError          keys, rights, payment, quota: someone has to act on the account
    │   ├── ClockSkewed         the signature's time was refused: sign again with the server's time
    │   └── TokenExpired        temporary credentials died: read them again, once
    ├── ServiceUnavailable    the service or the way to it: try again with growing delays
    │   ├── RateLimited         too many calls in a second: wait for the next one
    │   ├── NoAnswer            sent, and no readable answer came: whether it was done is unknown
    │   ├── ResourceUnreadable  the service could not read an upload: look at the window first
    │   └── UrlRefused          the store refuses a URL that the service signed: a fresh one, once
    ├── WindowOver            the upload ticket ran out: fresh ticket, fresh upload
    ├── ServiceRefused        a code nobody has documented: not repeated, it may be billed
    ├── StorageError          what we keep about a request cannot be read or written
    ├── OutcomeUnknown        a call was sent, its answer is lost, and it must not be repeated
    └── DeliveryFailed        a delivery ended without a verdict (in ``faceid.models``)

Every code that the API or its object store can answer maps to exactly one of these classes, or is
a verdict: see ``error_class`` and ``store_error_class``. Sources: fact sheet §6 (API) and §3.5
(store). Codes are open strings: an unknown one is read by its first segment.
"""

from enum import StrEnum
from typing import ClassVar, Literal

from faceid.redaction import redact

ErrorKind = Literal["input", "conflict", "account", "unavailable", "storage", "expired", "unknown"]


class NextStep(StrEnum):
    """What to do after an error."""

    MEND_INPUT = "mend the input"
    MEND_ACCOUNT = "mend the account"
    SIGN_AGAIN = "sign again with the server's time"
    RENEW_CREDENTIALS = "read the credentials again, once"
    RETRY = "try again, with growing delays"
    WAIT = "wait for the rate window, then try again"
    CHECK_RESOURCE = "check the window and the upload, then new window or try again"
    NEW_WINDOW = "fresh ticket, fresh upload"
    NEW_URL_ONCE = "fresh ticket, fresh upload, once"
    GIVE_UP = "give up"


class FaceIdError(Exception):
    """The root of the tree. Never carries a URL, a key or a signature.

    ``code`` is the service's code, or ours where the service said nothing. ``host`` is the
    server's name and port. ``advice`` says to a person what to do.
    """

    kind: ClassVar[ErrorKind] = "unavailable"
    next_step: ClassVar[NextStep] = NextStep.GIVE_UP
    advice: ClassVar[str] = ""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        tencent_request_id: str | None = None,
        host: str | None = None,
    ) -> None:
        self.code = code
        self.message = redact(message)
        self.tencent_request_id = tencent_request_id
        self.host = host
        super().__init__(code, self.message)

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
        advice = ADVICE.get(self.code, self.advice)
        return f"{text.rstrip('.')}. {advice}" if advice else text


class InvalidInput(FaceIdError):
    kind = "input"
    next_step = NextStep.MEND_INPUT


class RequestIdConflict(InvalidInput):
    kind = "conflict"
    advice = "Use a request ID of its own for each input."


class AccountError(FaceIdError):
    kind = "account"
    next_step = NextStep.MEND_ACCOUNT
    advice = "Look at the account in Tencent Cloud's console: its keys, rights and payment."


class ClockSkewed(AccountError):
    next_step = NextStep.SIGN_AGAIN
    advice = "This machine's clock is more than 5 minutes off: set it."


class TokenExpired(AccountError):
    next_step = NextStep.RENEW_CREDENTIALS
    advice = "Get a new TENCENTCLOUD_TOKEN, or block's token, with its secret ID and key."


class ServiceUnavailable(FaceIdError):
    kind = "unavailable"
    next_step = NextStep.RETRY
    advice = "Deliver the same request again later."


class RateLimited(ServiceUnavailable):
    next_step = NextStep.WAIT
    advice = "Something else uses the account's rate; or give FACEID_RATES what it allows."


class NoAnswer(ServiceUnavailable):
    pass


class ResourceUnreadable(ServiceUnavailable):
    next_step = NextStep.CHECK_RESOURCE
    advice = "The region of upload and target action must be the same."


class UrlRefused(ServiceUnavailable):
    next_step = NextStep.NEW_URL_ONCE


class WindowOver(FaceIdError):
    kind = "expired"
    next_step = NextStep.NEW_WINDOW
    advice = "Deliver the same request again: it gets a fresh upload ticket."


class ServiceRefused(FaceIdError):
    kind = "unavailable"
    advice = "Not repeated, as the call may be billed: ask the vendor with the Tencent request ID."


class StorageError(FaceIdError):
    kind = "storage"
    advice = "Look at FACEID_STORAGE and FACEID_DATA_KEY."


class OutcomeUnknown(FaceIdError):
    kind = "unknown"
    advice = "The call may have been billed. To call again, deliver with call_again."


# To a person, where a code alone says what to do. The environment's names are the vendor's.
ADVICE = {
    "AuthFailure.SecretIdNotFound": "Check TENCENTCLOUD_SECRET_ID, or the block's secret_id: no "
    "such key is known there.",
    "AuthFailure.SignatureFailure": "Check TENCENTCLOUD_SECRET_KEY, or the block's secret_key: it "
    "does not fit the secret ID.",
    "CredentialsChanged": "Give it a key of the account that it was for, then deliver again.",
    "AuthFailure.InvalidSecretId": "Check TENCENTCLOUD_SECRET_ID, or the block's secret_id: it "
    "must be an API key's ID.",
    "UnauthorizedOperation.Nonactivated": "Activate Face ID for this account in the console.",
    "UnauthorizedOperation.Arrears": "The account owes money: pay, then deliver again.",
    "ActionOffline": "The vendor has withdrawn this action.",
    "LocksUnavailable": "Look at FACEID_LOCKS, and whether the Redis server runs.",
    "LockLost": "Deliver the same request again: it goes on from here.",
    "CannotSpool": "Look at the folder for temporary files (TMPDIR): is there room?",
    "CannotSave": "Look at the folder of save_files_to.",
    "FilesExpired": "They live two hours; the verdict stands.",
    "AnswerForgotten": "The verdict stands; what the answer pointed to is gone with it.",
    "CannotDelete": "Delete it, then forget the request again.",
    "PrefectUnavailable": "Look at PREFECT_API_URL and PREFECT_API_AUTH_STRING, and whether the "
    "server runs.",
    "InvalidAction": "This endpoint does not know the action: check FACEID_ENDPOINT.",
}


# By first segment; for `FailedOperation` and `InternalError` the sub-code decides, below.
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
    # Verdicts in the disguise of a fault: the same bytes get the same answer again.
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
    """The class of an API code; ``None`` when the code is a verdict and no error at all.

    Knows the codes of fact sheet §6 one by one; another is read by its first segment, and one
    that has not even that is ``ServiceRefused``: never repeated.
    """
    if code in _VERDICT_CODES:
        return None
    if code in _BY_CODE:
        return _BY_CODE[code]
    return _BY_FIRST_SEGMENT.get(code.partition(".")[0], ServiceRefused)


def known_error_class(code: str) -> type[FaceIdError] | None:
    """The class of a code that stands in an answer's ``Result``; ``None``: it is a verdict.

    ``Result`` is where an action says what it found, in words that nobody has listed whole. So
    here an unknown value is a (negative) verdict, where ``error_class`` would see an error.
    """
    return _BY_CODE.get(code) or (None if "." in code else _BY_FIRST_SEGMENT.get(code))


# The object store's codes (fact sheet §3.5).
_STORE_CODES: dict[str, type[FaceIdError]] = {
    **dict.fromkeys(["Request has expired", "NoSuchKey"], WindowOver),
    **dict.fromkeys(["SignatureDoesNotMatch", "InvalidAccessKeyId"], UrlRefused),
    "RequestTimeTooSkewed": ClockSkewed,
    **dict.fromkeys(
        [
            "BadDigest",  # damaged on the way
            "IncompleteBody",
            "EntitySizeNotMatch",
            # HTTP 400s that are nobody's mistake
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
    """The class of an object store's refusal, by HTTP status, code and message."""
    if code == "AccessDenied":
        # The same code for "too late" and "not yours": only the message tells them apart.
        return WindowOver if "expired" in message.lower() else AccountError
    if code in _STORE_CODES:
        return _STORE_CODES[code]
    if status == 429:
        return RateLimited
    if status >= 500 or status < 400 or status == 408:
        return ServiceUnavailable
    return UrlRefused if status in (403, 404) else InvalidInput
