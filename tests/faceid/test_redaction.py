"""Secrets are hidden in texts and in logs, whichever logger writes them."""

import base64
import io
import json
import logging
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote, quote_plus

import pytest

from faceid import redaction
from faceid.redaction import redact

SIGNATURE = "ad414ce8823a64b1ba762a87b7468007606f0fe4"
KEY_ID = "AKIDEXAMPLEcosEXAMPLEcos0000000001"
URL = (
    "https://singapore-1.cos.ap-singapore.myqcloud.com/faceid%2FVideoLivenessCompare%2F2e54"
    f"?q-sign-algorithm=sha1&q-ak={KEY_ID}&q-sign-time=1%3B2&q-key-time=1%3B2"
    f"&q-header-list=host&q-url-param-list=&q-signature={SIGNATURE}"
)


@pytest.fixture(autouse=True)
def unprotected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin without protected secrets, and forget those of the test."""
    monkeypatch.setattr(redaction, "_forms", ())


@pytest.mark.parametrize(
    "text",
    [
        URL,
        f"PUT {URL} failed",
        f"{{'url': '{URL}'}}",
        f"&q-ak={KEY_ID}&q-signature={SIGNATURE}",
        f"https://user:{SIGNATURE}@host/path {KEY_ID}",
        f"Authorization: TC3-HMAC-SHA256 Credential={KEY_ID}/2021-11-18/faceid/tc3_request, "
        f"SignedHeaders=content-type;host, Signature={SIGNATURE}",
        f"{{'Authorization': 'Bearer{SIGNATURE}', 'x': '{KEY_ID}'}}",
        f"X-TC-Token: {SIGNATURE} {KEY_ID}",
        f'"secret_key": "{SIGNATURE}", "id": "{KEY_ID}"',
    ],
)
def test_urls_keys_and_signatures_are_hidden(text: str):
    hidden = redact(text)
    assert SIGNATURE not in hidden
    assert KEY_ID not in hidden


def test_the_rest_of_a_line_stays_readable():
    assert redact(f"PUT {URL} failed: 403") == (
        "PUT https://singapore-1.cos.ap-singapore.myqcloud.com/[redacted] failed: 403"
    )
    plain = "http://127.0.0.1:4200/api/health says ok; signature verified; 20 requests a second"
    assert redact(plain) == plain


def test_a_protected_secret_is_hidden_wherever_it_stands():
    redaction.protect("v3rySecretWord")
    assert redact("got v3rySecretWord!") == "got [redacted]!"
    redaction.protect("of")
    assert redact("of course") == "of course"


def as_bytes(text: str) -> str:
    return repr(text.encode())


def as_base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def in_base64(text: str) -> str:
    return as_base64(f"user:{text}, and more")


def in_url_safe_base64(text: str) -> str:
    return base64.urlsafe_b64encode(f"ab{text}".encode()).decode()


@pytest.mark.parametrize(
    "write",
    [
        str,
        repr,
        ascii,
        json.dumps,
        quote,
        quote_plus,
        as_bytes,
        as_base64,
        in_base64,
        in_url_safe_base64,
    ],
)
@pytest.mark.parametrize(
    "secret", ["wörd-of+the/day", "quoted \"and\\slashed'", "t\u0085oken-\x1b[31m"]
)
def test_a_protected_secret_is_hidden_in_every_form(write: Callable[[str], str], secret: str):
    redaction.protect(secret)
    assert "[redacted]" in redact(f"it says {write(secret)} there")


@pytest.fixture
def switching() -> Iterator[None]:
    """Let threads take turns as often as possible."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_secrets_are_protected_by_several_threads_while_others_redact(switching: None):
    secrets = [f"secret-number-{number}" for number in range(200)]
    with ThreadPoolExecutor(8) as pool:
        redacted = [pool.submit(redact, "a line") for _ in range(200)]
        list(pool.map(redaction.protect, secrets))
    assert {redaction_of.result() for redaction_of in redacted} == {"a line"}
    assert {redact(secret) for secret in secrets} == {"[redacted]"}


def test_a_secret_with_a_lone_surrogate_can_be_protected():
    redaction.protect("a-\ud800-secret")
    assert redact("it is a-\ud800-secret") == "it is [redacted]"


@pytest.mark.parametrize(
    "line",
    [
        "secret_key: does not fit",
        "security_token = missing",
        "Authorization: needed",
        "signature: wrong; secretkey=absent",
    ],
)
def test_prose_stays_readable(line: str):
    assert redact(line) == line


def test_the_words_after_basic_and_bearer_are_hidden():
    assert redact("authorization: Basic dXNlcjpwYXNz") == "authorization: Basic [redacted]"
    assert redact("Authorization: Bearer abcdefghij") == "Authorization: Bearer [redacted]"


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    before = logging.getLogRecordFactory()
    redaction.install()
    redaction.install()  # a second call has no effect
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("somebody.else")
    logger.addHandler(handler)
    yield stream
    logger.removeHandler(handler)
    logging.setLogRecordFactory(before)


def test_every_logger_is_filtered_tracebacks_too(log: io.StringIO):
    logger = logging.getLogger("somebody.else")
    logger.warning("HTTP Request: PUT %s", URL)
    try:
        raise RuntimeError(f"client error for {URL}")
    except RuntimeError:
        logger.exception("it failed")

    written = log.getvalue()
    assert SIGNATURE not in written
    assert KEY_ID not in written
    assert "HTTP Request: PUT https://singapore-1" in written
    assert "RuntimeError: client error for https://singapore-1" in written


def test_a_wrong_format_string_is_left_to_logging(log: io.StringIO):
    record = logging.getLogRecordFactory()("n", logging.INFO, "p", 1, "%d", ("x",), None)
    assert record.msg == "%d"
