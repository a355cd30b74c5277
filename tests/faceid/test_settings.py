"""Settings are read from the environment, and an invalid setting is named."""

import pytest

from faceid.errors import InvalidInput
from faceid.settings import FaceIdSettings, service_of


@pytest.mark.parametrize(
    ("endpoint", "service"),
    [
        ("https://faceid.intl.tencentcloudapi.com", "live"),
        ("https://faceid.tencentcloudapi.com", "live"),
        ("https://faceid.ap-hongkong.tencentcloudapi.com", "live"),
        ("http://127.0.0.1:8600", "emulator"),
        ("https://tencentcloudapi.com.example.test", "emulator"),
        ("https://eviltencentcloudapi.com", "emulator"),
    ],
)
def test_the_host_decides_which_service_it_is(endpoint: str, service: str):
    assert service_of(endpoint) == service


def test_the_defaults_are_the_designs():
    settings = FaceIdSettings.load()
    assert settings.endpoint == "https://faceid.intl.tencentcloudapi.com"
    assert settings.service == "live"
    assert settings.account == "default"
    assert settings.expiry_margin == 60
    assert settings.rate("CreateUploadUrl") == 20
    assert settings.rate("DetectReflectLivenessAndCompare") == 5
    assert settings.rate("CheckIdCardInformation") is None
    assert settings.rate("Unheard") is None


def test_everything_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch):
    environment = {
        "FACEID_ENDPOINT": "http://127.0.0.1:8600/",
        "FACEID_ACCOUNT": "kiosk",
        "FACEID_RATES": '{"VideoLivenessCompare": 40}',
        "FACEID_EXPIRY_MARGIN": "5",
        "FACEID_RESOURCE_ROOTS": "/a, s3://bucket/in ,,",
        "TENCENTCLOUD_SECRET_ID": "AKID1",
        "TENCENTCLOUD_SECRET_KEY": "key1",
        "TENCENTCLOUD_TOKEN": "token1",
        "TENCENTCLOUD_REGION": "ap-hongkong",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    settings = FaceIdSettings.load()

    assert settings.endpoint == "http://127.0.0.1:8600"
    assert settings.host == "127.0.0.1:8600"
    assert settings.service == "emulator"
    assert settings.rate("VideoLivenessCompare") == 40
    assert settings.expiry_margin == 5
    assert settings.resource_roots == ("/a", "s3://bucket/in")
    assert settings.region == "ap-hongkong"
    credentials = settings.credentials()
    assert credentials.secret_id == "AKID1"
    assert credentials.secret_key.get_secret_value() == "key1"
    assert credentials.token is not None
    assert credentials.token.get_secret_value() == "token1"
    assert "key1" not in repr(settings)
    assert "token1" not in repr(settings)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("FACEID_ENDPOINT", "faceid.example", "FACEID_ENDPOINT.*must look like https://host"),
        ("FACEID_ENDPOINT", "https://host/path", "FACEID_ENDPOINT.*must look like"),
        (
            "FACEID_ENDPOINT",
            "https://me:pw@host",
            "FACEID_ENDPOINT.*a scheme, a host and a port only",
        ),
        ("FACEID_ACCOUNT", "a/b", "FACEID_ACCOUNT"),
        ("FACEID_RATES", "fast", "FACEID_RATES.*must be JSON"),
        ("FACEID_RATES", '{"VideoLivenessCompare": 0}', "FACEID_RATES.*above 0"),
        ("FACEID_EXPIRY_MARGIN", "-1", "FACEID_EXPIRY_MARGIN"),
        ("FACEID_EXPIRY_MARGIN", "soon", "FACEID_EXPIRY_MARGIN"),
    ],
)
def test_a_wrong_setting_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
):
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidInput, match=message) as raised:
        FaceIdSettings.load()
    assert "pw@" not in str(raised.value)


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({}, "TENCENTCLOUD_SECRET_ID"),
        ({"TENCENTCLOUD_SECRET_ID": "AKID1"}, "TENCENTCLOUD_SECRET_KEY"),
        ({"TENCENTCLOUD_SECRET_KEY": "key1"}, "TENCENTCLOUD_SECRET_ID"),
    ],
)
def test_missing_credentials_are_an_error_never_a_fallback(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], missing: str
):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InvalidInput, match=f"{missing} is not set"):
        FaceIdSettings.load().credentials()


@pytest.mark.parametrize("name", ["SECRET_ID", "SECRET_KEY", "TOKEN"])
def test_blanks_at_the_ends_of_a_key_are_stripped_and_stray_characters_named(
    monkeypatch: pytest.MonkeyPatch, name: str
):
    monkeypatch.setenv("TENCENTCLOUD_SECRET_ID", "AKID1")
    monkeypatch.setenv("TENCENTCLOUD_SECRET_KEY", "key1")
    monkeypatch.setenv(f"TENCENTCLOUD_{name}", " value-1\r\n")
    key = FaceIdSettings.load().credentials()
    given = {"SECRET_ID": key.secret_id, "SECRET_KEY": key.secret_key.get_secret_value()}
    given["TOKEN"] = key.token.get_secret_value() if key.token else ""
    assert given[name] == "value-1"
    for stray in ("val\nue", "välue", "val ue", "value\x7f", "val\u200bue"):
        monkeypatch.setenv(f"TENCENTCLOUD_{name}", stray)
        with pytest.raises(InvalidInput, match=f"TENCENTCLOUD_{name}: .*printable ASCII") as raised:
            FaceIdSettings.load()
        assert stray not in str(raised.value)
