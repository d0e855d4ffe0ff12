"""The program that most tests of an endpoint run."""

import sglang as sgl


@sgl.function
def ask(s, regex=None):
    s += sgl.user("q")
    s += sgl.assistant(sgl.gen("a", max_tokens=4, regex=regex))


def run(endpoint):
    """Run `ask` to its end; returns its state."""
    state = ask.run(backend=endpoint)
    state.sync()
    return state
