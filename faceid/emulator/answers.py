"""The answers of the target actions, with the fields of the documented samples.

Files that an answer links to are objects of the store, and their URLs have a window of their own
(observed). Which fields are empty with a negative verdict is assumed, unless a comment says
otherwise.
"""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from faceid.emulator.call import Call
from faceid.emulator.emulation import Emulation
from faceid.emulator.parameters import wrong_value
from faceid.emulator.samples import JPEG, REFLECT_SEQUENCE
from faceid.emulator.tickets import answer_key

_FACE = base64.b64encode(JPEG).decode()
_ID_NUMBER = "000000000000000000"
_NOBODY = {
    "Name": "EXAMPLE NOBODY",
    "Sex": "X",
    "Nation": "EXAMPLE",
    "Birth": "2000/1/1",
    "Address": "1 EXAMPLE STREET",
}


@dataclass(frozen=True)
class Answer:
    """The answer to a call that has been executed."""

    emulation: Emulation
    """The emulator that answers."""
    call: Call
    """The call that is answered."""
    result: str
    """Value of the field ``Result``; empty if the action has no such field."""
    positive: bool
    """Whether the verdict is positive."""

    def fields(self) -> dict[str, Any]:
        """Return the fields of the answer, without ``RequestId``.

        Raises ``Refusal`` if a parameter is invalid.
        """
        return _BY_ACTION.get(self.call.name, Answer._verdict)(self)

    def _verdict(self) -> dict[str, Any]:
        """Return ``Result`` and ``Description``, or no field if the action gives no verdict.

        An action of ``FACEID_ACTIONS`` returns nothing else.
        """
        if not self.result:
            return {}
        description = (
            "Success" if self.positive else f"The verification did not pass: {self.result}"
        )
        return {"Result": self.result, "Description": description}

    def _similarity(self, score: float) -> float:
        # The only documented sample of a negative verdict has 0.
        return score if self.positive else 0.0

    def _file(self, suffix: str, data: bytes, content_type: str) -> tuple[str, str]:
        """Put a file of the answer into the store, and return its URL and MD5."""
        emulation, call = self.emulation, self.call
        key = answer_key(call.name, f"{call.request_id}_{suffix}")
        start = int(emulation.clock.now())
        stored = emulation.objects.put(
            key, data, content_type=content_type, expires=start + emulation.options.window
        )
        url = emulation.presigned_url("get", call.host, key, region=call.region, start=start)
        return url, stored.md5

    def _best_frame(self) -> tuple[str, str]:
        return self._file("BestFrame", JPEG, "image/jpeg")

    def video_liveness_compare(self) -> dict[str, Any]:
        """Return the answer of VideoLivenessCompare."""
        best_frame = None  # documented: may be null
        if self.positive:
            url, md5 = self._best_frame()
            best_frame = {"Url": url, "MD5": md5, "Size": len(JPEG)}
        return {**self._verdict(), "BestFrame": best_frame, "Sim": self._similarity(89.88)}

    def detect_reflect_liveness_and_compare(self) -> dict[str, Any]:
        """Return the answer of DetectReflectLivenessAndCompare."""
        url, md5 = self._best_frame() if self.positive else ("", "")  # documented: not null
        return {
            **self._verdict(),
            "BestFrameUrl": url,
            "BestFrameMd5": md5,
            "Sim": self._similarity(96.3),
        }

    def generate_reflect_sequence(self) -> dict[str, Any]:
        """Return the answer of GenerateReflectSequence, which has no verdict."""
        url, md5 = self._file("LightData", REFLECT_SEQUENCE, "application/octet-stream")
        return {"ReflectSequenceUrl": url, "ReflectSequenceMd5": md5}

    def liveness_compare(self) -> dict[str, Any]:
        """Return the answer of LivenessCompare.

        Raises ``Refusal`` if ``BestFrameNum`` is not a whole number from 1 to 10.
        """
        frames = json.loads(self.call.parameters.get("Optional", "{}")).get("BestFrameNum", 1)
        if not isinstance(frames, int) or not 1 <= frames <= 10:
            raise wrong_value("Optional")
        return {
            **self._verdict(),
            "Sim": self._similarity(89.88),
            "BestFrameBase64": _FACE if self.positive else None,
            "BestFrameList": [_FACE] * frames if self.positive and frames > 1 else None,
        }

    def check_id_card_information(self) -> dict[str, Any]:
        """Return the answer of CheckIdCardInformation."""
        return {
            **self._verdict(),
            "Sim": self._similarity(91.5),
            **(_NOBODY if self.positive else dict.fromkeys(_NOBODY, "")),
            "IdNum": _ID_NUMBER if self.positive else "",
            "Portrait": _FACE if self.positive else "",
            "Warnings": "",
            "Quality": 90.0 if self.positive else 0.0,
            "Encryption": None,
            "EncryptedBody": "",
        }

    def id_card_ocr_verification(self) -> dict[str, Any]:
        """Return the answer of IdCardOCRVerification.

        A name and an ID number that the call gives are returned in it.
        """
        given = self.call.parameters
        return {
            **self._verdict(),
            **(_NOBODY if self.positive else dict.fromkeys(_NOBODY)),
            "Name": given.get("Name", _NOBODY["Name"]),
            "IdCard": given.get("IdCard", _ID_NUMBER),
        }

    def apply_web_verification_token(self) -> dict[str, Any]:
        """Return the answer of ApplyWebVerificationToken, which has no verdict."""
        token = self.call.request_id.upper()
        url = f"http://{self.call.host}/_emulator/health?token={token}"
        return {"VerificationUrl": url, "BizToken": token}


_BY_ACTION: dict[str, Callable[[Answer], dict[str, Any]]] = {
    "VideoLivenessCompare": Answer.video_liveness_compare,
    "DetectReflectLivenessAndCompare": Answer.detect_reflect_liveness_and_compare,
    "GenerateReflectSequence": Answer.generate_reflect_sequence,
    "LivenessCompare": Answer.liveness_compare,
    "CheckIdCardInformation": Answer.check_id_card_information,
    "IdCardOCRVerification": Answer.id_card_ocr_verification,
    "ApplyWebVerificationToken": Answer.apply_web_verification_token,
}
