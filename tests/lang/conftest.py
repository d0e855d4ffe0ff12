"""Fixtures for an endpoint on a scripted server."""

import pytest

from specreason_sgl import Endpoint
from specreason_sgl.lang import requests


@pytest.fixture
def endpoint(scripted):
    """An endpoint that sends a request at most twice."""
    with Endpoint(scripted.url, timeout=20, retry_for=0) as endpoint:
        yield endpoint


@pytest.fixture
def quick(monkeypatch):
    """Pauses before a request is sent again are short."""
    monkeypatch.setattr(requests, "FIRST_WAIT", 0.001)
