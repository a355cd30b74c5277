"""TC3 signatures: the published vectors, and byte-for-byte equality with the vendor's SDK."""

import hashlib
import json
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tencentcloud.common import abstract_client
from tencentcloud.common.credential import Credential
from tencentcloud.common.http.request import RequestInternal
from tencentcloud.common.profile.client_profile import ClientProfile
from tencentcloud.common.profile.http_profile import HttpProfile
from tencentcloud.faceid.v20180301.faceid_client import FaceidClient

from faceid.signing import Authorization, Scope, canonical_request, sign_request, signature

V1_BODY = rb'{"Limit": 1, "Filters": [{"Values": ["\u672a\u547d\u540d"], "Name": "instance-name"}]}'
V1_TIME = 1551113065


def test_v1_the_documentations_first_example():
    headers = {
        "content-type": "application/json; charset=utf-8",
        "host": "cvm.tencentcloudapi.com",
    }
    canonical = canonical_request(headers, ("content-type", "host"), V1_BODY)

    assert canonical.endswith("35e9c5b0e3ae67532d3c9f17ead6c90222632e5b1ff7f6e89887f1398934f064")
    assert hashlib.sha256(canonical.encode()).hexdigest() == (
        "5ffe6a04c0664d6b969fab9a13bdab201d63ee709638e2749d62a09ca18d7031"
    )
    scope = Scope.at(V1_TIME, "cvm")
    assert scope.date == "2019-02-25"
    assert signature("Gu5t9xGARNpq86cd98joQYCN3EXAMPLE", V1_TIME, scope, canonical) == (
        "72e494ea809ad7a8c8f7a4507b9bddcbaa8e581f516e8da2f66e2c5a96525168"
    )


def test_v1b_the_newer_edition_signs_the_action_in_lower_case():
    headers = {
        "content-type": "application/json; charset=utf-8",
        "host": "cvm.tencentcloudapi.com",
        "x-tc-action": "DescribeInstances",
    }
    canonical = canonical_request(headers, ("content-type", "host", "x-tc-action"), V1_BODY)

    assert hashlib.sha256(canonical.encode()).hexdigest() == (
        "7019a55be8395899b900fb5564e4200d984910f34794a27cb3fb7d10ff6a1e84"
    )
    assert signature("*" * 32, V1_TIME, Scope.at(V1_TIME, "cvm"), canonical) == (
        "10b1a37a7301a02ca19a647ad722d5e43b4b3cff309d421d85b46093f6ab6c4f"
    )


def test_v2_create_upload_url_as_the_sdk_signs_it():
    headers = sign_request(
        secret_id="AKIDEXAMPLEexampleEXAMPLE0001",
        secret_key="EXAMPLEsecretKeyEXAMPLE000000001",
        service="faceid",
        host="faceid.intl.tencentcloudapi.com",
        action="CreateUploadUrl",
        version="2018-03-01",
        region="ap-singapore",
        timestamp=1637205677,
        body=b'{"TargetAction": "ApplyWebVerificationToken"}',
    )

    assert headers["Authorization"] == (
        "TC3-HMAC-SHA256 "
        "Credential=AKIDEXAMPLEexampleEXAMPLE0001/2021-11-18/faceid/tc3_request, "
        "SignedHeaders=content-type;host, "
        "Signature=6cba734aa2fc032b20707c3051925fade2cccde21c5bf78e9d93eaf71d3ea6f3"
    )
    assert "X-TC-Token" not in headers


def test_v3_temporary_credentials_in_the_last_second_of_a_utc_day():
    headers = sign_request(
        secret_id="AKIDEXAMPLEexampleEXAMPLE0002",
        secret_key="EXAMPLEsecretKeyEXAMPLE000000002",
        token="EXAMPLE-session-token",
        service="faceid",
        host="faceid.tencentcloudapi.com",
        action="CreateUploadUrl",
        version="2018-03-01",
        region="ap-hongkong",
        timestamp=1704067199,
        body=b'{"TargetAction": "VideoLivenessCompare"}',
    )

    assert headers["X-TC-Token"] == "EXAMPLE-session-token"
    assert headers["Authorization"].endswith(
        "AKIDEXAMPLEexampleEXAMPLE0002/2023-12-31/faceid/tc3_request, "
        "SignedHeaders=content-type;host, "
        "Signature=62bc5c4da17adff20a420b3a282ef8828e2c015cfcb2dc399801fbd7c6387d92"
    )


_words = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40)


@given(
    params=st.dictionaries(st.text(max_size=20), st.text(max_size=50) | st.integers(), max_size=5),
    secret_id=_words,
    secret_key=_words,
    token=st.none() | _words,
    timestamp=st.integers(0, 4_000_000_000),
    region=st.sampled_from(["", "ap-singapore", "ap-hongkong"]),
    host=st.sampled_from(["faceid.intl.tencentcloudapi.com", "127.0.0.1:8600"]),
    action=st.sampled_from(["CreateUploadUrl", "VideoLivenessCompare"]),
)
def test_headers_are_byte_equal_to_the_sdks(
    params: dict[str, str | int],
    secret_id: str,
    secret_key: str,
    token: str | None,
    timestamp: int,
    region: str,
    host: str,
    action: str,
):
    theirs = _headers_of_the_sdk(
        params, secret_id, secret_key, token, timestamp, region, host, action
    )
    ours = sign_request(
        secret_id=secret_id,
        secret_key=secret_key,
        token=token or "",
        service="faceid",
        host=host,
        action=action,
        version="2018-03-01",
        region=region,
        timestamp=timestamp,
        body=json.dumps(params).encode(),
    )

    assert {name: theirs.get(name) for name in ours} == ours
    # The headers that only the SDK sends identify it, and are not signed.
    assert set(theirs) - set(ours) <= {"X-TC-RequestClient", "X-TC-Language"}


def _headers_of_the_sdk(
    params: dict[str, str | int],
    secret_id: str,
    secret_key: str,
    token: str | None,
    timestamp: int,
    region: str,
    host: str,
    action: str,
) -> dict[str, str]:
    profile = ClientProfile(httpProfile=HttpProfile(endpoint=host))
    client = FaceidClient(Credential(secret_id, secret_key, token), region, profile)
    request = RequestInternal(host, "POST", "/")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(abstract_client, "time", SimpleNamespace(time=lambda: timestamp))
        cast("Any", client)._build_req_with_tc3_signature(action, params, request)
    return dict(cast("Any", request).header)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Basic abc",
        "TC3-HMAC-SHA256",
        "TC3-HMAC-SHA256 Credential=AKID/2021-11-18/faceid, SignedHeaders=host, Signature=0",
        "TC3-HMAC-SHA256 Credential=AKID/2021-11-18/faceid/tc3_request, Signature=0",
    ],
)
def test_a_broken_authorization_header_is_told(value: str):
    with pytest.raises(ValueError, match="TC3-HMAC-SHA256"):
        Authorization.parse(value)


def test_an_authorization_header_is_read_back():
    scope = Scope("2021-11-18", "faceid")
    text = (
        "TC3-HMAC-SHA256 Credential=AKID1/2021-11-18/faceid/tc3_request, "
        "SignedHeaders=content-type;host, Signature=00ff"
    )
    assert Authorization.parse(text) == Authorization(
        "AKID1", scope, ("content-type", "host"), "00ff"
    )
