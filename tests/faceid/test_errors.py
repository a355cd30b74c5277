"""Every known error code of the service has a class, and the class says what to do next."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faceid import errors
from faceid.errors import (
    AccountError,
    ClockSkewed,
    FaceIdError,
    InvalidInput,
    NextStep,
    RateLimited,
    ResourceUnreadable,
    ServiceRefused,
    ServiceUnavailable,
    TokenExpired,
    UrlRefused,
    WindowOver,
    error_class,
    store_error_class,
)

# All codes of the vendor, by class. ``None`` stands for a verdict.
API_CODES: dict[type[FaceIdError] | None, str] = {
    ServiceUnavailable: """
        InternalError InternalError.UnKnown InternalError.EncryptSystemError ResourceInsufficient
        ResourceUnavailable ServiceUnavailable FailedOperation.LivessSystemError
        FailedOperation.LivessUnknownError FailedOperation.CompareSystemError
        FailedOperation.CompareLibServiceUnavailable FailedOperation.DetectEngineSystemError
        FailedOperation.EncryptSystemError FailedOperation.DecryptSystemError
        FailedOperation.FileSaveError FailedOperation.IdPhotoSystemNoanswer
        FailedOperation.UnKnown FailedOperation.UnKnowError FailedOperation.CompressVideoError""",
    RateLimited: """
        RequestLimitExceeded RequestLimitExceeded.IPLimitExceeded
        RequestLimitExceeded.UinLimitExceeded RequestLimitExceeded.GlobalRegionUinLimitExceeded
        FailedOperation.RequestLimitExceeded""",
    ClockSkewed: "AuthFailure.SignatureExpire",
    TokenExpired: "AuthFailure.TokenFailure",
    AccountError: """
        LimitExceeded AuthFailure.SignatureFailure AuthFailure.InvalidAuthorization
        AuthFailure.SecretIdNotFound AuthFailure.InvalidSecretId AuthFailure.MFAFailure
        AuthFailure.UnauthorizedOperation UnauthorizedOperation UnauthorizedOperation.Nonactivated
        UnauthorizedOperation.ActivateError UnauthorizedOperation.Arrears
        UnauthorizedOperation.ChargeStatusException UnauthorizedOperation.NonAuthorize
        UnauthorizedOperation.Activating IpInBlacklist IpNotInWhitelist DryRunOperation
        FailedOperation.IdentityAuthLimitExceeded FailedOperation.StsUnAuthErrError
        FailedOperation.UnOpenError ResourceUnavailable.InArrears
        ResourceUnavailable.ResourcePackageRunOut""",
    InvalidInput: """
        ResourceInUse ResourceNotFound InvalidParameter InvalidParameter.Whatever
        InvalidParameterValue InvalidParameterValue.Whatever MissingParameter UnknownParameter
        InvalidRequest RequestSizeLimitExceeded ResponseSizeLimitExceeded UnsupportedProtocol
        InvalidAction NoSuchVersion NoSuchProduct ActionOffline UnsupportedRegion
        UnsupportedOperation OperationDenied FailedOperation FailedOperation.ImageSizeTooLarge
        FailedOperation.ImageDecodeFailed FailedOperation.EmptyImageError
        FailedOperation.LifePhotoSizeError FailedOperation.LipSizeError
        FailedOperation.LipVideoInvalid FailedOperation.VideoDecodeFailed
        FailedOperation.VideoDurationExceeded FailedOperation.SilentTooShort
        InvalidParameter.EngineImageDecodeFailed InvalidParameterValue.InvalidFileContentSize
        InvalidParameterValue.InvalidParameterValueLimit FailedOperation.IdFormatError
        FailedOperation.NameFormatError InvalidParameter.UnsupportEncryptField
        InternalError.LifePhotoSizeError""",
    ResourceUnreadable: """
        FailedOperation.DownLoadError FailedOperation.DownLoadTimeoutError
        ResourceUnavailable.ImageDownloadError FailedOperation.LipNetFailed""",
    None: """
        FailedOperation.CompareLowSimilarity FailedOperation.CompareFail
        FailedOperation.LivessDetectFail FailedOperation.LivessDetectFake
        FailedOperation.LivessBestFrameError FailedOperation.LifePhotoDetectFaces
        FailedOperation.LifePhotoDetectNoFaces FailedOperation.LifePhotoDetectFake
        FailedOperation.LifePhotoPoorQuality FailedOperation.ImageBlur
        FailedOperation.ImageNoIdCard FailedOperation.OcrFailed
        FailedOperation.OcrWarningOccurred FailedOperation.PoorImageQuality
        FailedOperation.CoveredFace FailedOperation.IncompleteFace FailedOperation.ActionCloseEye
        FailedOperation.ActionFaceClose FailedOperation.ActionFaceFar
        FailedOperation.ActionFaceLeft FailedOperation.ActionFaceRight
        FailedOperation.ActionFirstAction FailedOperation.ActionLightDark
        FailedOperation.ActionLightStrong FailedOperation.ActionNodetectFace
        FailedOperation.ActionOpenMouth FailedOperation.LipFaceIncomplete
        FailedOperation.LipMoveSmall FailedOperation.LipVideoQuaility
        FailedOperation.LipVoiceDetect FailedOperation.LipVoiceLow
        FailedOperation.LipVoiceRecognize FailedOperation.SilentDetectFail
        FailedOperation.SilentEyeLiveFail FailedOperation.SilentFaceDetectFail
        FailedOperation.SilentFaceQualityFail FailedOperation.SilentFaceWithMaskFail
        FailedOperation.SilentMouthLiveFail FailedOperation.SilentMultiFaceFail
        FailedOperation.SilentPictureLiveFail FailedOperation.SilentThreshold
        FailedOperation.IdNameMisMatch FailedOperation.IdNoExistSystem
        FailedOperation.IdPhotoNoExist FailedOperation.IdPhotoPoorQuality
        InternalError.ActionLightDark InternalError.ActionLightStrong
        InternalError.ActionNodetectFace InternalError.CompareLowSimilarity
        InternalError.LifePhotoPoorQuality""",
}

# Undocumented codes: classified by their first segment, and never retried blindly.
UNKNOWN_CODES: dict[type[FaceIdError], str] = {
    InvalidInput: "FailedOperation.SomethingNew InvalidParameterValue.SomethingNew",
    ServiceRefused: "InternalError.SomethingNew Curious Curious.Case x",
    AccountError: "AuthFailure.SomethingNew UnauthorizedOperation.SomethingNew",
    RateLimited: "RequestLimitExceeded.SomethingNew",
    ServiceUnavailable: "ResourceUnavailable.SomethingNew",
}


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (code, kind)
        for table in (API_CODES, UNKNOWN_CODES)
        for kind, codes in table.items()
        for code in codes.split()
    ],
)
def test_every_api_code_has_its_class(code: str, expected: type[FaceIdError] | None):
    assert error_class(code) is expected


@pytest.mark.parametrize(
    ("status", "code", "message", "expected"),
    [
        (403, "SignatureDoesNotMatch", "The Signature you specified is invalid.", UrlRefused),
        (403, "AccessDenied", "Request has expired", WindowOver),
        (403, "Request has expired", "", WindowOver),
        (403, "RequestTimeTooSkewed", "", ClockSkewed),
        (403, "InvalidAccessKeyId", "", UrlRefused),
        (403, "AccessDenied", "Access Denied.", AccountError),
        (404, "NoSuchKey", "The specified key does not exist.", WindowOver),
        (404, "NoSuchBucket", "", AccountError),
        (400, "BadDigest", "", ServiceUnavailable),
        (400, "InvalidDigest", "", InvalidInput),
        (400, "IncompleteBody", "", ServiceUnavailable),
        (400, "EntitySizeNotMatch", "", ServiceUnavailable),
        (400, "EntityTooLarge", "", InvalidInput),
        (400, "RequestTimeout", "", ServiceUnavailable),
        (400, "UserNetworkTooSlow", "", ServiceUnavailable),
        (405, "MethodNotAllowed", "", InvalidInput),
        (411, "MissingContentLength", "", InvalidInput),
        (503, "SlowDown", "", RateLimited),
        (500, "InternalError", "", ServiceUnavailable),
        (503, "ServiceUnavailable", "", ServiceUnavailable),
        # no XML, but a gateway's page
        (502, "HTTP 502", "", ServiceUnavailable),
        (302, "HTTP 302", "", ServiceUnavailable),
        (429, "HTTP 429", "", RateLimited),
        (403, "HTTP 403", "", UrlRefused),
        (418, "HTTP 418", "", InvalidInput),
    ],
)
def test_every_store_code_has_its_class(
    status: int, code: str, message: str, expected: type[FaceIdError]
):
    assert store_error_class(status, code, message) is expected


@given(code=st.text(max_size=60))
def test_no_code_is_without_a_class(code: str):
    kind = error_class(code)
    assert kind is None or issubclass(kind, FaceIdError)


@given(status=st.integers(100, 599), code=st.text(max_size=30), message=st.text(max_size=30))
def test_no_store_reply_is_without_a_class(status: int, code: str, message: str):
    assert issubclass(store_error_class(status, code, message), FaceIdError)


def _tree(root: type[FaceIdError]) -> list[type[FaceIdError]]:
    return [root, *(leaf for child in root.__subclasses__() for leaf in _tree(child))]


def test_only_what_time_can_mend_is_retried():
    """Kinds and next steps are consistent: what the caller must fix is never retried."""
    retried = {
        NextStep.RETRY,
        NextStep.DECIDE,
        NextStep.WAIT,
        NextStep.CHECK_RESOURCE,
        NextStep.NEW_URL_ONCE,
    }
    for kind in _tree(FaceIdError):
        if kind.__module__ == errors.__name__ and kind.next_step in retried:
            assert kind.kind == "unavailable"


def test_an_error_says_what_where_and_what_to_do():
    error = AccountError(
        "AuthFailure.SecretIdNotFound",
        "no such id",
        tencent_request_id="r-1",
        host="127.0.0.1:8600",
    )
    assert str(error) == (
        "AuthFailure.SecretIdNotFound: no such id (127.0.0.1:8600, Tencent request ID r-1). "
        "Check the secret ID: the service knows no such key."
    )
    error.name_credentials({"secret_id": "TENCENTCLOUD_SECRET_ID"})
    assert str(error).endswith("r-1). Check TENCENTCLOUD_SECRET_ID: the service knows no such key.")
    assert str(InvalidInput("InvalidResource", "resource ImageUrl: the file is empty")) == (
        "InvalidResource: resource ImageUrl: the file is empty"
    )


def test_an_error_hides_what_the_service_quotes():
    error = ResourceUnreadable(
        "FailedOperation.DownLoadError", "cannot read https://b/k?q-signature=0123456789abcdef"
    )
    assert "0123456789abcdef" not in str(error) + repr(error) + error.message
