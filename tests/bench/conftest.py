import pytest

from specreason_sgl.bench.servers import Pace
from specreason_sgl.bench.setup import paced_pair


@pytest.fixture(scope="package")
def zero(chatml_folder):
    """Draft and base endpoints of servers that answer at once."""
    with paced_pair(chatml_folder, Pace(), Pace()) as (_, draft, base):
        yield draft, base
