"""Speculative reasoning for SGLang.

    from specreason_sgl import SpecReason

    with SpecReason("mini") as pair:  # or SpecReason(draft=URL, base=URL)
        print(pair.solve("What is 17 * 23?").answer)

These are the names for daily use. Verifiers and rules are in `specreason_sgl.verifiers`, measuring in
`specreason_sgl.evaluation`, exceptions in `specreason_sgl.errors`. A name is imported when it is first used:
`import sglang` takes seconds, and reading a trace does not need it.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING

from specreason_sgl.lazy import names_from

if TYPE_CHECKING:
    from specreason_sgl.errors import SpecReasonError
    from specreason_sgl.lang.endpoint import Endpoint
    from specreason_sgl.lang.fork import fork_to
    from specreason_sgl.lang.logprobs import logprobs
    from specreason_sgl.lang.score import score
    from specreason_sgl.pair import AsyncSpecReason, SpecReason
    from specreason_sgl.reasoning.alone import alone
    from specreason_sgl.reasoning.batch import solve_batch
    from specreason_sgl.reasoning.config import SpecReasonConfig
    from specreason_sgl.reasoning.repair import Correct, Rewrite
    from specreason_sgl.reasoning.run import Cancel
    from specreason_sgl.reasoning.solve import solve, solve_alone
    from specreason_sgl.reasoning.speculate import speculate
    from specreason_sgl.reasoning.trace import Step, Trace
    from specreason_sgl.runtime.launch import launch_pair
    from specreason_sgl.runtime.pairs import get_pair

__version__ = "0.1.0"
__all__ = [
    "AsyncSpecReason",
    "Cancel",
    "Correct",
    "Endpoint",
    "Rewrite",
    "SpecReason",
    "SpecReasonConfig",
    "SpecReasonError",
    "Step",
    "Trace",
    "alone",
    "fork_to",
    "get_pair",
    "launch_pair",
    "logprobs",
    "score",
    "solve",
    "solve_alone",
    "solve_batch",
    "speculate",
]
__getattr__, __dir__ = names_from(
    __name__,
    {
        "errors": ("SpecReasonError",),
        "lang.endpoint": ("Endpoint",),
        "lang.fork": ("fork_to",),
        "lang.logprobs": ("logprobs",),
        "lang.score": ("score",),
        "pair": ("AsyncSpecReason", "SpecReason"),
        "reasoning.alone": ("alone",),
        "reasoning.batch": ("solve_batch",),
        "reasoning.config": ("SpecReasonConfig",),
        "reasoning.repair": ("Correct", "Rewrite"),
        "reasoning.run": ("Cancel",),
        "reasoning.solve": ("solve", "solve_alone"),
        "reasoning.speculate": ("speculate",),
        "reasoning.trace": ("Step", "Trace"),
        "runtime.launch": ("launch_pair",),
        "runtime.pairs": ("get_pair",),
    },
)

if "IPython" in sys.modules:  # in a notebook: traces and reports are shown as tables
    import_module(f"{__name__}.display.notebook").register()
