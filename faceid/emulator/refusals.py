"""Error replies: the codes and messages of the API and of the object store.

Messages that are marked as documented or observed are the service's own. All other messages were
written for the emulator, because the vendor does not document them.
"""

from typing import Any

API_MESSAGES = {
    # documented
    "AuthFailure.SignatureFailure": "The provided credentials could not be validated. "
    "Please check your signature is correct.",
    # All following messages were written for the emulator.
    "AuthFailure.InvalidAuthorization": "The Authorization header is not valid.",
    "AuthFailure.SecretIdNotFound": "The SecretId does not exist.",
    "AuthFailure.SignatureExpire": "The signature has expired: timestamp and server time are "
    "more than 5 minutes apart.",
    "AuthFailure.TokenFailure": "The token is not valid.",
    "InvalidAction": "The action does not exist.",
    "ActionOffline": "The action is offline.",
    "NoSuchVersion": "The version does not exist.",
    "UnsupportedRegion": "The action does not support this region.",
    "UnsupportedProtocol": "Only GET and POST are supported.",
    "InvalidRequest": "The Content-Type must be application/json.",
    "RequestSizeLimitExceeded": "The request is larger than allowed.",
    "InternalError": "Internal error.",
    "FailedOperation.DownLoadError": "The file could not be downloaded.",
    "FailedOperation.DownLoadTimeoutError": "Downloading the file took too long.",
    "FailedOperation.ImageSizeTooLarge": "The image is too large.",
    "FailedOperation.LifePhotoSizeError": "The image is too large.",
    "FailedOperation.LipSizeError": "The video is too large.",
    "FailedOperation.ImageDecodeFailed": "The image could not be decoded.",
    "FailedOperation.VideoDecodeFailed": "The video could not be decoded.",
}
"""Messages of the API, by error code."""


def limit_message(calls: int, limit: int) -> str:
    """Return the message of ``RequestLimitExceeded`` (observed with another of the vendor's APIs).

    ``calls`` is the number of calls in the past second, including the refused one.
    """
    return (
        f"Your current request times equals to `{calls}` in a second, which exceeds the frequency "
        f"limit `{limit}` for a second. Please reduce the frequency of calls."
    )


class Refusal(Exception):
    """Raised to answer an API call with an error.

    Without ``message``, the message for the code is used.
    """

    def __init__(self, code: str, message: str | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.message = message or API_MESSAGES.get(code, f"The emulator was told to say {code}.")

    def as_json(self) -> dict[str, Any]:
        """Return the field ``Error`` of the answer."""
        return {"Error": {"Code": self.code, "Message": self.message}}


# Maps error codes of the store to HTTP statuses (documented) and messages (observed if marked,
# otherwise assumed).
_STORE: dict[str, tuple[int, str]] = {
    "SignatureDoesNotMatch": (403, "The Signature you specified is invalid."),  # observed
    "AccessDenied": (403, "Access Denied."),  # observed
    "Request has expired": (403, "Request has expired"),
    "RequestTimeTooSkewed": (
        403,
        "The difference between the request time and the current time is too large.",
    ),
    "InvalidAccessKeyId": (403, "The Access Key Id you provided does not exist in our records."),
    "NoSuchKey": (404, "The specified key does not exist."),
    "NoSuchBucket": (404, "The specified bucket does not exist."),  # observed
    "MissingContentLength": (411, "You must provide the Content-Length HTTP header."),
    "BadDigest": (400, "The Content-MD5 you specified did not match what we received."),
    "InvalidDigest": (400, "The Content-MD5 you specified was invalid."),
    "IncompleteBody": (
        400,
        "You did not provide the number of bytes specified by the Content-Length HTTP header.",
    ),
    "EntitySizeNotMatch": (400, "The size of the body does not match the Content-Length."),
    "EntityTooLarge": (400, "Your proposed upload exceeds the maximum allowed object size."),
    "RequestTimeout": (400, "The client has not sent data for too long."),
    "UserNetworkTooSlow": (400, "The client sends too slowly."),
    "MethodNotAllowed": (405, "The specified method is not allowed against this resource."),
    "InvalidRange": (416, "The requested range cannot be satisfied."),  # status and code assumed
    "SlowDown": (503, "Please reduce your request rate."),
    "InternalError": (500, "We encountered an internal error. Please try again."),
    "ServiceUnavailable": (503, "Please reduce your request rate."),
}

EXPIRED = "Request has expired"
"""The message of ``AccessDenied`` if a URL has expired (observed)."""


class StoreRefusal(Exception):
    """Raised to answer a request to the store with an error.

    Without ``message``, the message for the code is used. ``details`` maps the names of further
    elements in the XML of the reply to their texts.
    """

    def __init__(
        self, code: str, message: str | None = None, *, details: dict[str, str] | None = None
    ) -> None:
        super().__init__(code)
        # The status of an undocumented code is assumed to be 400.
        self.status, text = _STORE.get(code, (400, f"The emulator was told to say {code}."))
        self.code = code
        self.message = message or text
        self.details = details or {}
