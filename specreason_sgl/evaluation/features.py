"""What is known of a disagreement when it is read: the features of a learned acceptance.

All come from the prefill that reads the draft, and from the draft model's own logprobs.
"""

import math
import re

from specreason_sgl.evaluation.signals import entropy, margin
from specreason_sgl.lang.logprobs import TokenLogprob
from specreason_sgl.reasoning.repair import OPERATORS
from specreason_sgl.reasoning.verifiers import DIGIT

FEATURES = (
    "regret", "base-probability", "drafted-probability", "entropy", "digit", "operator", "word", "step-start",
    "draft-logprob", "draft-margin",
)  # fmt: skip
_OPERATOR = re.compile(f"[{OPERATORS}]")


def features(read: TokenLogprob, drafted: TokenLogprob, begins_step: bool) -> dict[str, float]:
    """The values of `FEATURES`, by name.

    Probabilities are the base model's, of its first choice and of the drafted token. `digit` and `operator`
    say whether one of these two has one, `word` whether both are words; 1 for yes.

    Args:
        read: the drafted token as the base model read it, with its first choices.
        drafted: the token at the same place as the draft model reads it, with its first choices.
        begins_step: whether it is the first token of a step.
    """
    choice = read.first[0]
    both = read.text + choice.text
    values = (
        read.regret,
        math.exp(choice.logprob),
        math.exp(read.logprob),
        entropy(read),
        bool(DIGIT.search(both)),
        bool(_OPERATOR.search(both)),
        read.text.strip().isalpha() and choice.text.strip().isalpha(),
        begins_step,
        drafted.logprob,
        margin(drafted),
    )
    return dict(zip(FEATURES, map(float, values), strict=True))
