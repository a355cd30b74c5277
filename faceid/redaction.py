"""Redaction of presigned URLs, keys, tokens and signatures in texts and log records.

This library puts none of these into its own errors and log messages. Redaction is the second line
of defence: other libraries log URLs, and a message of the service may quote a URL.
"""

import base64
import json
import logging
import re
import threading
import traceback
from typing import Any
from urllib.parse import quote, quote_plus

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
    (
        re.compile(
            r"(?i)(authorization[\"']?\s*[:=]\s*[\"']?(?:basic\s+|bearer\s+)?)(?!TC3)"
            r"[^\s\"',}\]]{8,}"
        ),
        rf"\1{HIDDEN}",
    ),
    # Parameters of a presigned URL whose beginning has been cut off.
    (
        re.compile(r"(?i)\b(q-(?:signature|ak|sign-time|key-time)=)[^\s&\"',}\]]+"),
        rf"\1{HIDDEN}",
    ),
    # Only what looks like a key: a word of prose after a colon is shorter.
    (
        re.compile(
            r"(?i)\b(x-tc-token|x-cos-security-token|signature|secret_?key|security_?token)"
            r"([\"']?\s*[=:]\s*[\"']?)[^\s&\"',;}\]]{16,}"
        ),
        rf"\1\2{HIDDEN}",
    ),
    (re.compile(r"\bAKID[A-Za-z0-9_-]{12,}"), f"AKID{HIDDEN}"),
)

# The longest first, because a form may contain another one. The tuple is replaced and never
# changed, because another thread may be reading it.
_forms: tuple[str, ...] = ()
_lock = threading.Lock()


def protect(secret: str) -> None:
    """Register a secret, such as a key or a token, which ``redact`` removes from every text.

    It is removed in the forms that ``forms_of`` returns. Secrets of fewer than 8 characters are
    ignored, because they could occur in ordinary words.
    """
    global _forms  # noqa: PLW0603 - see above
    if len(secret) < 8 or secret in _forms:
        return
    with _lock:
        _forms = tuple(sorted({*_forms, *forms_of(secret)}, key=lambda form: (-len(form), form)))


def forms_of(text: str) -> set[str]:
    """Return a text as it is, and as it stands in a ``repr``, in JSON, in a URL and in base64."""
    encoded = text.encode(errors="surrogatepass")
    forms = {
        text,
        repr(text)[1:-1],
        ascii(text)[1:-1],
        repr(encoded)[2:-1],
        json.dumps(text)[1:-1],
        json.dumps(text, ensure_ascii=False)[1:-1],
        quote(encoded),
        quote(encoded, safe=""),
        quote_plus(encoded),
    }
    # Base64 encodes three bytes at a time, so the form depends on how many bytes come before. Of
    # the first and the last four characters, some belong to what comes before and after.
    for before in range(3):
        for encode in (base64.standard_b64encode, base64.urlsafe_b64encode):
            whole = encode(bytes(before) + encoded).decode().rstrip("=")
            forms.add(whole[4 if before else 0 : len(whole) // 4 * 4])
    return {form for form in forms if len(form) >= 8}


def redact(text: str) -> str:
    """Return the text with presigned URLs, keys, tokens and signatures replaced by ``HIDDEN``."""
    for form in _forms:
        text = text.replace(form, HIDDEN)
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
