"""Target actions: download the files of a call, check them, and give a verdict.

The emulator checks sizes, MD5s and magic bytes, and does not look at the images themselves. The
verdict is positive unless a fault asks for another one.
"""

import asyncio
import base64
from typing import Any

from faceid.actions import MB, ResourceField, TargetAction
from faceid.emulator.answers import Answer
from faceid.emulator.call import Call
from faceid.emulator.downloads import DOWNLOAD_SECONDS, Fetched, fetch
from faceid.emulator.emulation import Emulation
from faceid.emulator.refusals import Refusal
from faceid.emulator.samples import has_format

OFFLINE = frozenset({"ApplyCardVerification"})
"""Withdrawn actions, whose calls are answered with ``ActionOffline`` (assumed).
ApplyWebVerificationToken is withdrawn, too, but works here, because people know it from the samples
in the documentation."""

# Limits for inline images where they are larger than those for images by URL (documented).
_INLINE_LIMITS = {("CheckIdCardInformation", "ImageBase64"): 7 * MB}

# These two actions return LifePhotoSizeError instead of ImageSizeTooLarge (documented).
_OWN_IMAGE_SIZE_CODE = frozenset({"VideoLivenessCompare", "LivenessCompare"})


async def call_target_action(
    emulation: Emulation, action: TargetAction, call: Call, result: str | None
) -> dict[str, Any]:
    """Carry out a call of a target action, and return the fields of its answer.

    ``result`` is the value of ``Result`` that a fault asks for; ``None`` for a positive verdict.
    Raises ``Refusal`` if a file cannot be downloaded or is not accepted.
    """
    files = [field for field in action.resources if field.name in _wanted(action, call.parameters)]
    fetched = await asyncio.gather(
        *(_read(emulation, action, call, field) for field in files), return_exceptions=True
    )
    for outcome in fetched:  # the error of the first field is returned (assumed)
        if isinstance(outcome, BaseException):
            raise outcome
    passed = action.reading.passed
    return Answer(
        emulation,
        call,
        result=result or (passed[0] if passed else ""),
        positive=result is None or result in passed,
    ).fields()


def _wanted(action: TargetAction, given: dict[str, Any]) -> set[str]:
    """Return the names of the resources that a call gives by URL or inline, and that are read."""
    personal = action.personal_parameters
    if personal and all(name in given for name in personal):
        return set()  # documented: the personal parameters take precedence over images
    return {
        field.name for field in action.resources if field.name in given or field.inline in given
    }


async def _read(
    emulation: Emulation, action: TargetAction, call: Call, field: ResourceField
) -> None:
    """Download a resource, or decode its inline form, and check it.

    Raises ``Refusal`` if the file cannot be downloaded or is not accepted.
    """
    given = call.parameters
    # Which of the two is used if a call has both is documented.
    if field.inline in given and (field.inline_wins or field.name not in given):
        fetched = _decode(field, given[field.inline])
        limit = _INLINE_LIMITS.get((action.name, field.inline), field.max_base64_bytes)
    else:
        limit = field.max_base64_bytes
        fetched = await fetch(
            emulation,
            given[field.name],
            region=call.region,
            # The limit of the field is documented.
            seconds=emulation.options.download_seconds
            or field.download_seconds
            or DOWNLOAD_SECONDS,
            most=field.max_bytes,
        )
    # documented: the limit applies to the size after base64 encoding
    if limit is not None and (fetched.size + 2) // 3 * 4 > limit:
        raise Refusal(_size_code(action, field))
    if field.md5_field and fetched.md5 != given[field.md5_field].lower():
        raise Refusal("FailedOperation.DownLoadError")  # assumed
    if field.formats and not any(has_format(fetched.head, name) for name in field.formats):
        raise Refusal(_decode_code(field))


def _decode(field: ResourceField, text: str) -> Fetched:
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        raise Refusal(_decode_code(field)) from None
    return Fetched(len(data), md5="", head=data[:16])


def _is_video(field: ResourceField) -> bool:
    return "MP4" in field.formats


def _size_code(action: TargetAction, field: ResourceField) -> str:
    if _is_video(field):
        return "FailedOperation.LipSizeError"  # documented
    if action.name in _OWN_IMAGE_SIZE_CODE:
        return "FailedOperation.LifePhotoSizeError"  # documented
    return "FailedOperation.ImageSizeTooLarge"  # documented


def _decode_code(field: ResourceField) -> str:
    # The codes are documented; that these actions use them is assumed.
    return f"FailedOperation.{'Video' if _is_video(field) else 'Image'}DecodeFailed"
