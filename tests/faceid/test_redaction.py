"""Secrets are hidden in texts and in logs, whichever logger writes them."""

import io
import logging
from collections.abc import Iterator

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
