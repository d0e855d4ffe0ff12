"""`classify`: what a reward or classification model says of a state, as an expression of the language."""

from typing import Any

from sglang.lang.choices import ChoicesDecision
from sglang.lang.interpreter import StreamExecutor
from sglang.lang.ir import SglSelect

from specreason_sgl.errors import ConfigError
from specreason_sgl.lang.methods import EndpointMethod


def classify(name: str) -> SglSelect:
    """Read the values of a model's classification head for the text so far; nothing is appended.

    `s.get_meta_info(name)` holds `values`, a list of floats, and the request's counts as in `score`. It needs
    an `Endpoint` on a server that was started with `--is-embedding`.
    """
    return SglSelect(name, [""], 0.0, Classification())


class Classification(EndpointMethod):
    """How `classify` asks."""

    def ask(self, endpoint: Any, s: StreamExecutor, choices: list[str]) -> ChoicesDecision:
        values, usage = endpoint.classify(s)
        return ChoicesDecision("", {"values": values, **usage})

    def __call__(self, **_) -> ChoicesDecision:
        raise ConfigError("classify works only on a specreason_sgl.Endpoint")
