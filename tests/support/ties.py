"""Texts that differ only because two tokens were about as likely.

What is computed together (a prefill, a decoding step, a batch) changes the last bits of the logits. In
bfloat16 a logit of 16 to 32 moves in steps of 0.125, one of 32 to 64 in steps of 0.25. Two such steps decide
a near tie, and the texts differ from there on.
"""

from collections.abc import Iterable

import sglang as sgl

from specreason_sgl import Endpoint, SpecReasonConfig, logprobs

TIE = 0.5  # nats


@sgl.function
def continued(s, messages, before, text):
    for message in messages:
        s += getattr(sgl, message["role"])(message["content"])
    s += sgl.assistant_begin()
    s += before
    s += logprobs("x", text)


def first_difference(
    endpoint: Endpoint, config: SpecReasonConfig, question: str, before: str, texts: Iterable[str]
):
    """The two tokens at which the texts part, as the model reads them after the question and `before`."""
    states = [
        continued.run(messages=config.messages(question), before=before, text=text, backend=endpoint)
        for text in texts
    ]
    tokens = [state.get_meta_info("x")["logprobs"] for state in states]
    return next((a, b) for a, b in zip(*tokens, strict=False) if a.text != b.text)


def assert_near_tie(endpoint, config, question, before, *texts, margins=(0.0,)):
    """The texts part at two tokens whose logprobs differ by about one of `margins` (nats).

    Args:
        endpoint: the model that chose; several: one of them did.
        margins: 0 for a choice between two tokens; a delta for the choice to correct a token or not.
    """
    endpoints = endpoint if isinstance(endpoint, tuple) else (endpoint,)
    gaps = []
    for model in endpoints:
        a, b = first_difference(model, config, question, before, texts)
        gaps.append((abs(a.logprob - b.logprob), a.text, b.text))
    assert any(abs(gap - margin) <= TIE for gap, *_ in gaps for margin in margins), gaps
