import pytest

from specreason_sgl import Endpoint
from tests.support import waiting


@pytest.fixture
def endpoint(scripted):
    """An endpoint that sends a request at most twice."""
    with Endpoint(scripted.url, timeout=20, retry_for=0) as endpoint:
        yield endpoint


@pytest.fixture
def quick_retries():
    with waiting.quick_retries():
        yield
