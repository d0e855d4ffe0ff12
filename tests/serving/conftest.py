import openai
import pytest

from tests.support.serving import serving
from tests.support.writers import steps_of


@pytest.fixture(scope="module")
def pair(pair):
    """A pair whose runs have three accepted steps."""
    pair.start_anew(steps_of(3), lambda turn: 9)
    return pair


@pytest.fixture(scope="module")
def url(pair):
    with serving(pair) as url:
        yield url


@pytest.fixture
def calm(pair):
    """The pair as it was, whatever the test before made of it."""
    pair.start_anew(steps_of(3), lambda turn: 9)


@pytest.fixture
def client(url):
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
