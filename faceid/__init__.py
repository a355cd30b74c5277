"""Python library for Tencent Cloud Face ID: upload tickets, uploads and target actions.

The names in ``__all__`` are the public API; ``FaceIdClient`` is where to begin. The emulator is in
``faceid.emulator``, and ``faceid.pytest_plugin`` has a fixture that runs it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from faceid.actions import (
        CREATE_UPLOAD_URL,
        TARGET_ACTIONS,
        AnswerFile,
        Parameter,
        Reading,
        ResourceField,
        TargetAction,
        load_actions,
    )
    from faceid.client import FaceIdClient
    from faceid.errors import (
        AccountError,
        ClockSkewed,
        FaceIdError,
        InvalidInput,
        NextStep,
        NoAnswer,
        RateLimited,
        ResourceUnreadable,
        ServiceRefused,
        ServiceUnavailable,
        TokenExpired,
        UrlRefused,
        WindowOver,
    )
    from faceid.http import Timeouts
    from faceid.models import Credentials, Reply, ResourceFile, Upload, UploadTicket, Verdict
    from faceid.pacing import Pacer, SharedPacer
    from faceid.settings import FaceIdSettings
    from faceid.verification import Verification

__all__ = [
    "CREATE_UPLOAD_URL",
    "TARGET_ACTIONS",
    "AccountError",
    "AnswerFile",
    "ClockSkewed",
    "Credentials",
    "FaceIdClient",
    "FaceIdError",
    "FaceIdSettings",
    "InvalidInput",
    "NextStep",
    "NoAnswer",
    "Pacer",
    "Parameter",
    "RateLimited",
    "Reading",
    "Reply",
    "ResourceField",
    "ResourceFile",
    "ResourceUnreadable",
    "ServiceRefused",
    "ServiceUnavailable",
    "SharedPacer",
    "TargetAction",
    "Timeouts",
    "TokenExpired",
    "Upload",
    "UploadTicket",
    "UrlRefused",
    "Verdict",
    "Verification",
    "WindowOver",
    "load_actions",
]

_MODULES = ("actions", "client", "errors", "http", "models", "pacing", "settings", "verification")
"""The modules of the public names. They are imported on first use, because together they take
longer to import than the command ``faceid`` may take to print its help."""


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in _MODULES:
            found = import_module(f"{__name__}.{module}")
            if hasattr(found, name):
                return getattr(found, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
