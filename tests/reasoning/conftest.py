import pytest

from specreason_sgl import Endpoint
from specreason_sgl.lang import requests
from tests.reasoning.pair import Pair
from tests.scripted import ScriptedServer


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Retries follow each other quickly."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(requests, "FIRST_WAIT", 0.001)
        yield


@pytest.fixture(scope="module")
def pair(chatml_folder):
    """Started once per module; `start_anew` resets everything that a test can set."""
    with (
        ScriptedServer(chatml_folder) as draft_server,
        ScriptedServer(chatml_folder) as base_server,
        Endpoint(draft_server.url, timeout=20) as draft,
        Endpoint(base_server.url, timeout=20) as base,
    ):
        yield Pair(draft_server, base_server, draft, base)
