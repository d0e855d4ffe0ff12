import pytest

from tests.support import waiting


@pytest.fixture(scope="module", autouse=True)
def quick_retries():
    with waiting.quick_retries():
        yield
