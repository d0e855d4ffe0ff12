import pytest

from specreason_sgl import Endpoint
from specreason_sgl.bench.servers import Pace, paced_servers


@pytest.fixture(scope="package")
def zero(chatml_folder):
    """Draft and base endpoints of servers that answer at once."""
    with (
        paced_servers(chatml_folder, Pace(), Pace()) as servers,
        Endpoint(servers.urls[0]) as draft,
        Endpoint(servers.urls[1]) as base,
    ):
        yield draft, base
