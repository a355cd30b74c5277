"""What must never be written: presigned URLs, keys, signatures; and the filter that sees to it.

Our own errors and log lines carry none of these to begin with. This module is the second line:
libraries below us log URLs, and a service's message may quote one.
"""

import logging
import re
import traceback
from typing import Any

HIDDEN = "[redacted]"

# Order matters: whole URLs first, so that what is left of a cut-off one is caught by the others.
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    # A URL with a query string: what stands there is a bearer's right. The host may stay.
    (
        re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://[^\s/?#\"'<>]+)/?[^\s?\"'<>]*\?[^\s\"'<>]*"),
        rf"\1/{HIDDEN}",
    ),
    # User info in a URL.
    (re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)[^\s/@\"'<>]+@"), rf"\1{HIDDEN}@"),
    (re.compile(r"(?i)\b(TC3-HMAC-SHA256)\s+Credential=.*?(?=$|[\r\n\"'])"), rf"\1 {HIDDEN}"),
    (re.compile(r"(?i)(authorization[\"']?\s*[:=]\s*[\"']?)(?!TC3)[^\s\"',}\]]+"), rf"\1{HIDDEN}"),
    (
        re.compile(
            r"(?i)\b(q-(?:signature|ak|sign-time|key-time)|x-tc-token|x-cos-security-token|signature|"
            r"secret_?key|security_?token)([\"']?\s*[=:]\s*[\"']?)[^\s&\"',;}\]]+"
        ),
        rf"\1\2{HIDDEN}",
    ),
    (re.compile(r"\bAKID[A-Za-z0-9_-]{12,}"), f"AKID{HIDDEN}"),
)

_secrets: set[str] = set()


def protect(secret: str) -> None:
    """Names a literal text, a secret key or a token, that must be hidden wherever it shows up."""
    if len(secret) >= 8:  # anything shorter would black out ordinary words
        _secrets.add(secret)


def redact(text: str) -> str:
    """``text`` without URLs that open something, keys, tokens and signatures."""
    for secret in _secrets:
        text = text.replace(secret, HIDDEN)
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def install() -> None:
    """Makes every log record of this process, of any logger, pass ``redact``. Idempotent.

    A record factory and not a filter: filters on a logger do not see what child loggers
    propagate, and handlers that are added later have none. Tracebacks are redacted as well.
    """
    current = logging.getLogRecordFactory()
    if getattr(current, "redacts", False):
        return

    def redacting_factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = current(*args, **kwargs)
        try:
            message = record.getMessage()
        except Exception:
            return record  # a wrong format string: logging itself reports it
        redacted = redact(message)
        if redacted != message:
            record.msg, record.args = redacted, None
        if record.exc_info and record.exc_info[0] is not None:
            # A formatter prints `exc_text` where it is set, and does not format again.
            record.exc_text = redact("".join(traceback.format_exception(*record.exc_info))).rstrip()
            record.exc_info = None
        return record

    redacting_factory.redacts = True  # pyright: ignore[reportFunctionMemberAccess]  # marks ours
    logging.setLogRecordFactory(redacting_factory)
