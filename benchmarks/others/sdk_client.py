"""A client of the vendor's SDK, configured from environment variables."""

import os
from typing import Any
from urllib.parse import urlsplit

from tencentcloud.common.credential import Credential
from tencentcloud.common.profile.client_profile import ClientProfile
from tencentcloud.common.profile.http_profile import HttpProfile
from tencentcloud.faceid.v20180301 import models
from tencentcloud.faceid.v20180301.faceid_client import FaceidClient


def client() -> FaceidClient:
    """Return a client for the service at ``FACEID_ENDPOINT``."""
    url = urlsplit(os.environ["FACEID_ENDPOINT"])
    http = HttpProfile(protocol=url.scheme, endpoint=url.netloc, keepAlive=True)
    keys = Credential(os.environ["TENCENTCLOUD_SECRET_ID"], os.environ["TENCENTCLOUD_SECRET_KEY"])
    return FaceidClient(keys, "ap-singapore", ClientProfile(httpProfile=http))


def ask(service: FaceidClient, action: str, **parameters: str) -> Any:
    """Call an action, and return the SDK's response object."""
    request: Any = getattr(models, f"{action}Request")()
    for name, value in parameters.items():
        setattr(request, name, value)
    return getattr(service, action)(request)
