"""Redaction of presigned URLs, keys, tokens and signatures in texts and log records.

This library puts none of these into its own errors and log messages. Redaction is the second line
of defence: other libraries log URLs, and a message of the service may quote a URL.
"""

import logging
import re
import traceback
from typing import Any

HIDDEN = "[redacted]"
"""The text that replaces a secret."""

# The order matters: the first pattern removes whole URLs, and the others catch what is left of
# truncated URLs.
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    # A URL with a query, which may grant access to anyone. The host may be shown.
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
    """Register a secret, such as a key or a token, which ``redact`` removes from every text.

    Secrets of fewer than 8 characters are ignored, because they could occur in ordinary words.
    """
    if len(secret) >= 8:
        _secrets.add(secret)


def redact(text: str) -> str:
    """Return the text with presigned URLs, keys, tokens and signatures replaced by ``HIDDEN``."""
    for secret in _secrets:
        text = text.replace(secret, HIDDEN)
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def install() -> None:
    """Apply ``redact`` to every log record of this process, including tracebacks.

    A second call has no effect. This uses a record factory and not a filter, because a logger's
    filters do not apply to records that child loggers propagate, and because handlers that are
    added later would have no filter.
    """
    current = logging.getLogRecordFactory()
    if getattr(current, "redacts", False):
        return

    def redacting_factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = current(*args, **kwargs)
        try:
            message = record.getMessage()
        except Exception:
            return record  # an invalid format string, which logging itself reports
        redacted = redact(message)
        if redacted != message:
            record.msg, record.args = redacted, None
        if record.exc_info and record.exc_info[0] is not None:
            # If `exc_text` is set, formatters print it and do not format the exception again.
            record.exc_text = redact("".join(traceback.format_exception(*record.exc_info))).rstrip()
            record.exc_info = None
        return record

    redacting_factory.redacts = True  # pyright: ignore[reportFunctionMemberAccess]  # marks ours
    logging.setLogRecordFactory(redacting_factory)
