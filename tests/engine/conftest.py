"""Real runtimes: the pair `nano`, started once for all these tests."""

import pytest

from specreason_sgl.runtime.launch import launch_pair
from specreason_sgl.runtime.models import get_pair


def pytest_collection_modifyitems(items):
    for item in items:
        if "tests/engine/" in str(item.path):
            item.add_marker(pytest.mark.engine)


@pytest.fixture(scope="session")
def pair():
    metrics = ["--enable-metrics"]
    with launch_pair(get_pair("nano"), draft_args=metrics, base_args=metrics) as running:
        yield running


@pytest.fixture
def draft(pair):
    from specreason_sgl import Endpoint

    with Endpoint(pair.draft.url, timeout=300) as endpoint:
        yield endpoint


@pytest.fixture
def base(pair):
    from specreason_sgl import Endpoint

    with Endpoint(pair.base.url, timeout=300) as endpoint:
        yield endpoint
