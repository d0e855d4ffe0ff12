import pytest

from specreason_sgl import Endpoint
from specreason_sgl.bench.servers import zero_servers


@pytest.fixture(scope="package")
def zero(chatml_folder):
    """Draft and base endpoints of servers that answer at once."""
    with zero_servers(chatml_folder) as urls, Endpoint(urls[0]) as draft, Endpoint(urls[1]) as base:
        yield draft, base
