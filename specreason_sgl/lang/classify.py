"""`classify`: what a reward or classification model says of a state, as an expression of the language."""

from sglang.lang.choices import ChoicesDecision, ChoicesSamplingMethod
from sglang.lang.ir import SglSelect

from specreason_sgl.errors import ConfigError


def classify(name: str) -> SglSelect:
    """Read the values of a model's classification head for the text so far; nothing is appended.

    `s.get_meta_info(name)` holds `values`, a list of floats, and the request's counts as in `score`. It needs
    an `Endpoint` on a server that was started with `--is-embedding`.
    """
    return SglSelect(name, [""], 0.0, Classification())


class Classification(ChoicesSamplingMethod):
    """How `classify` asks; `Endpoint` knows it."""

    def __call__(self, **_) -> ChoicesDecision:
        raise ConfigError("classify works on a specreason_sgl.Endpoint only")
