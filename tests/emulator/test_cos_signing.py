"""The store's signatures: published vectors, vectors made with the store's SDK, and that SDK."""

import logging
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qcloud_cos import CosConfig, CosS3Client

from faceid.emulator.cos_signing import (
    Grant,
    http_string,
    presigned_query,
    sign_key,
    signature,
    string_to_sign,
)

logging.getLogger("qcloud_cos").setLevel(logging.WARNING)

PUBLISHED_KEY = "BQYIM75p8x0iWVFSIgqEKwFprpRSVHlz"
PUBLISHED_HOST = "examplebucket-1250000000.cos.ap-beijing.myqcloud.com"
SDK_ID = "AKIDEXAMPLEcosEXAMPLEcos0000000001"
SDK_KEY = "EXAMPLEcosSecretKeyEXAMPLE00001"
SDK_HOST = "singapore-1257237511.cos.ap-singapore.myqcloud.com"
SDK_PATH = "/faceid/ApplyWebVerificationToken/2e546a7c-4e12-43f6-bf98-d33d3724ea5b"


def test_published_put() -> None:
    key_time = "1557989151;1557996351"
    http = http_string(
        "PUT",
        "/exampleobject(腾讯云)",
        {},
        {
            "Content-Length": "13",
            "Content-MD5": "mQ/fVh815F3k6TAUm8m0eg==",
            "Content-Type": "text/plain",
            "Date": "Thu, 16 May 2019 06:45:51 GMT",
            "Host": PUBLISHED_HOST,
            "x-cos-acl": "private",
            "x-cos-grant-read": 'uin="100000000011"',
        },
    )
    to_sign = string_to_sign(key_time, http)
    assert sign_key(PUBLISHED_KEY, key_time) == "eb2519b498b02ac213cb1f3d1a3d27a3b3c9bc5f"
    assert to_sign == f"sha1\n{key_time}\n8b2751e77f43a0995d6e9eb9477f4b685cca4172\n"
    signed = signature(PUBLISHED_KEY, key_time, to_sign)
    assert signed == "3b8851a11a569213c17ba8fa7dcf2abec6935172"


def test_published_get() -> None:
    key_time = "1557989753;1557996953"
    http = http_string(
        "GET",
        "/exampleobject(腾讯云)",
        {
            "response-content-type": "application/octet-stream",
            "response-cache-control": "max-age=600",
        },
        {"Date": "Thu, 16 May 2019 06:55:53 GMT", "Host": PUBLISHED_HOST},
    )
    to_sign = string_to_sign(key_time, http)
    assert sign_key(PUBLISHED_KEY, key_time) == "937914bf490e9e8c189836aad2052e4feeb35eaf"
    assert to_sign == f"sha1\n{key_time}\n54ecfe22f59d3514fdc764b87a32d8133ea611e6\n"
    signed = signature(PUBLISHED_KEY, key_time, to_sign)
    assert signed == "01681b8c9d798a678e43b685a9f1bba0f6c0e012"


@pytest.mark.parametrize(
    ("method", "host", "path", "window", "signed"),
    [
        (
            "put",
            SDK_HOST,
            SDK_PATH,
            (1637205677, 1637212877),
            "ad414ce8823a64b1ba762a87b7468007606f0fe4",
        ),
        (
            "get",
            SDK_HOST,
            SDK_PATH,
            (1637205677, 1637212877),
            "83718e9b0861bf818e64387425a94ee94c49432c",
        ),
        (
            "put",
            "faceid-resource-hk-1250000000.cos.ap-hongkong.myqcloud.com",
            "/faceid/GenerateReflectSequence/1300000001/66f265e1-6d93-489e-9b34-8e75d8f6ecd8",
            (1676537007, 1676544207),
            "157907c01abd2ea0a678d4667229087f30ad64f2",
        ),
        (
            "get",
            "faceid-resource-hk-1250000000.cos.ap-hongkong.myqcloud.com",
            "/faceid/GenerateReflectSequence/1300000001/66f265e1-6d93-489e-9b34-8e75d8f6ecd8",
            (1676537007, 1676544207),
            "e9440fc199ef6f06f25eceaf12187819cc17b9fc",
        ),
    ],
)
def test_vectors_made_with_the_store_sdk(
    method: str, host: str, path: str, window: tuple[int, int], signed: str
) -> None:
    start, end = window
    query = presigned_query(
        method, host, path, secret_id=SDK_ID, secret_key=SDK_KEY, start=start, end=end
    )
    times = f"{start}%3B{end}"
    assert query == (
        f"q-sign-algorithm=sha1&q-ak={SDK_ID}&q-sign-time={times}&q-key-time={times}"
        f"&q-header-list=host&q-url-param-list=&q-signature={signed}"
    )


def test_a_signed_content_md5_is_verified() -> None:
    query = (
        f"q-sign-algorithm=sha1&q-ak={SDK_ID}&q-sign-time=1637205677%3B1637212877"
        "&q-key-time=1637205677%3B1637212877&q-header-list=content-md5%3Bhost"
        "&q-url-param-list=&q-signature=418bf9903205e8a87f27d6f58b5390ce009fd5cd"
    )
    grant = Grant.parse(query)

    def fits(content_md5: str) -> bool:
        headers = {"content-md5": content_md5}
        return grant.fits(SDK_KEY, [grant.http_string("PUT", SDK_PATH, query, headers, SDK_HOST)])

    assert fits("XUFAKrxLKna5cZ2REBfFkg==")
    assert not fits("AAAAKrxLKna5cZ2REBfFkg==")
    assert not fits("")


@pytest.mark.parametrize(
    "query",
    [
        "",
        "q-sign-algorithm=sha1",
        "q-sign-algorithm=md5&q-ak=a&q-sign-time=1;2&q-key-time=1;2&q-header-list=&"
        "q-url-param-list=&q-signature=s",
        "q-sign-algorithm=sha1&q-ak=a&q-sign-time=now&q-key-time=1;2&q-header-list=&"
        "q-url-param-list=&q-signature=s",
        "q-sign-algorithm=sha1&q-ak=a&q-sign-time=1;2;3&q-key-time=1;2&q-header-list=&"
        "q-url-param-list=&q-signature=s",
    ],
)
def test_what_is_no_grant(query: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Grant.parse(query)


@settings(max_examples=60, deadline=None)
@given(
    method=st.sampled_from(["PUT", "GET", "HEAD"]),
    key=st.text(
        st.characters(codec="utf-8", exclude_characters="\x00\r\n", exclude_categories=["Cs"]),
        min_size=1,
        max_size=40,
    ).filter(lambda key: key.strip("/") == key and "//" not in key and key not in (".", "..")),
    params=st.dictionaries(
        st.sampled_from(["response-content-type", "response-cache-control", "acl"]),
        st.text("ab /=+", min_size=1, max_size=6),
    ),
)
def test_urls_of_the_store_sdk_fit(method: str, key: str, params: dict[str, str]) -> None:
    config = CosConfig(Region="ap-singapore", SecretId=SDK_ID, SecretKey=SDK_KEY, Scheme="http")
    client: Any = CosS3Client(config)
    url: str = client.get_presigned_url(
        Bucket="singapore-1257237511", Key=key, Method=method, Params=params
    )
    parts = urlsplit(url)
    grant = Grant.parse(parts.query)
    http = grant.http_string(method, f"/{key}", parts.query, {}, SDK_HOST)
    other = grant.http_string(method, f"/{key}x", parts.query, {}, SDK_HOST)
    assert grant.fits(SDK_KEY, [http])
    assert not grant.fits(SDK_KEY, [other])
    assert not grant.fits(SDK_KEY + "x", [http])
