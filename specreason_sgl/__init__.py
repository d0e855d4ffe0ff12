"""Speculative reasoning for SGLang.

    from specreason_sgl import Endpoint, SpecReasonConfig, solve

    draft, base = Endpoint("http://127.0.0.1:30001"), Endpoint("http://127.0.0.1:30000")
    trace = solve("What is 17 * 23?", draft=draft, base=base, config=SpecReasonConfig(token_budget=2048))

What is named here, and in `evaluation.pictures`, is the public interface. Names are imported when they are
first used: `import sglang` takes seconds, and reading a trace does not need it.
"""

from importlib import import_module

__version__ = "0.1.0"

_HOME = {
    "Endpoint": "lang.endpoint",
    "fork_to": "lang.fork",
    "score": "lang.score",
    "logprobs": "lang.logprobs",
    "Threshold": "reasoning.acceptance",
    "Quantile": "reasoning.acceptance",
    "FixedShare": "reasoning.acceptance",
    "Correct": "reasoning.repair",
    "Rewrite": "reasoning.repair",
    "Verifier": "reasoning.verifiers",
    "UtilityScore": "reasoning.verifiers",
    "PaperScore": "reasoning.verifiers",
    "YesNo": "reasoning.verifiers",
    "Likelihood": "reasoning.verifiers",
    "RewardModel": "reasoning.verifiers",
    "Cancel": "reasoning.run",
    "Judgement": "reasoning.verifiers",
    "Drafted": "reasoning.verifiers",
    "Calibration": "reasoning.calibration",
    "get_calibration": "reasoning.calibration",
    "SpecReasonConfig": "reasoning.config",
    "Trace": "reasoning.trace",
    "Step": "reasoning.trace",
    "Correction": "reasoning.trace",
    "Call": "reasoning.trace",
    "speculate": "reasoning.speculate",
    "alone": "reasoning.alone",
    "solve": "reasoning.solve",
    "solve_alone": "reasoning.solve",
    "solve_batch": "reasoning.batch",
    "solve_alone_batch": "reasoning.batch",
    "Problem": "evaluation.problems",
    "Setting": "evaluation.settings",
    "run_evaluation": "evaluation.evaluate",
    "Report": "evaluation.report",
    "launch_pair": "runtime.launch",
    "print_progress": "runtime.launch",
    "get_pair": "runtime.pairs",
    "SpecReasonError": "errors",
}
__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
