"""The program that most tests run, and a fault that most servers can have."""

import sglang as sgl


@sgl.function
def ask(s, regex=None):
    s += sgl.user("q")
    s += sgl.assistant(sgl.gen("a", max_tokens=4, regex=regex))


def run(endpoint):
    """A state that has asked."""
    state = ask.run(backend=endpoint)
    state.sync()
    return state
