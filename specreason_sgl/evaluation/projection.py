"""What a run's counts would take at other speeds: an estimate from stated assumptions, not a measurement."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from specreason_sgl.errors import ConfigError
from specreason_sgl.evaluation.estimates import Estimate, mean, ratio
from specreason_sgl.evaluation.groups import Group, alone, requests
from specreason_sgl.reasoning.trace import Call, Side, Trace

WINDOWS = range(1, 17)  # tokens that token-level speculative decoding drafts at a time


@dataclass(frozen=True)
class Speeds:
    """Assumed speeds, in milliseconds. The defaults are the pace of `bench --parts scale`, about that of a
    draft model of 1.5B and a base model of 32B on H100s.

    A request takes a prefill, which gives its first token, and the time of each further token. A prefill's
    length makes no difference: most of a prompt is cached. The draft model's takes as long as a token.

    Attributes:
        draft, base: a decoded token.
        prefill: a prefill of the base model.
    """

    draft: float = 4.0
    base: float = 20.0
    prefill: float = 25.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 < value < math.inf:
                raise ConfigError(f"{name} must be a number of milliseconds above 0, got {value:g}")

    def seconds(self, trace: Trace, side: Side) -> float:
        """Of all requests of a run to one model, thrown away ones included, one after another."""
        return sum(map(self.request, requests(trace, side)))

    def request(self, call: Call) -> float:
        """Seconds of one request."""
        prefill, token = (self.draft, self.draft) if call.side == "draft" else (self.prefill, self.base)
        return (prefill + token * max(call.completion_tokens - 1, 0)) / 1000


@dataclass(frozen=True)
class Projection:
    """A setting at assumed speeds; seconds of a sample are means over problems.

    Attributes:
        in_turns: of both models, one after the other: nothing overlaps.
        overlapped: of the busier model: as if the other never kept it waiting.
        over_base_in_turns, over_base_overlapped: how many times as long base alone takes, on the problems
            that both solved.
    """

    setting: str
    in_turns: Estimate
    overlapped: Estimate
    over_base_in_turns: Estimate
    over_base_overlapped: Estimate


@dataclass(frozen=True)
class TokenLevel:
    """What token-level speculative decoding (arXiv 2211.17192) by the same two models, in one engine, would
    take for a setting's texts.

    The draft model writes `window` tokens; a prefill of the base model keeps those before the first that is
    not its own first choice, and adds one. Its text would be the base model's own, which a corrected one
    nearly is: where the first choices are others follows from the trace.

    Attributes:
        window: the one of `WINDOWS` that takes the least time.
        agreed: share of the tokens that are drafted and the base model's first choice.
        seconds: of a sample, its answer included; the mean over problems.
        over_base: how many times as long base alone would take to write the same.
    """

    setting: str
    window: int
    agreed: Estimate
    seconds: Estimate
    over_base: Estimate


def project(groups: Sequence[Group], speeds: Speeds) -> list[Projection]:
    """A projection of each setting that has a finished sample."""
    return [_project(group, groups, speeds) for group in groups if group.samples]


def _project(group: Group, groups: Sequence[Group], speeds: Speeds) -> Projection:
    def by_problem(group: Group, combine: Callable[[list[float]], float]) -> dict[str, float]:
        sides: tuple[Side, ...] = ("draft", "base")
        return group.by_problem(lambda trace: combine([speeds.seconds(trace, side) for side in sides]))

    base = alone(group, "base", groups)
    at_base = by_problem(base, sum) if base else {}
    each = by_problem(group, sum), by_problem(group, max)
    shared = [problem for problem in each[0] if problem in at_base]
    return Projection(
        group.name,
        *(mean(list(seconds.values())) for seconds in each),
        *(ratio([at_base[i] for i in shared], [seconds[i] for i in shared]) for seconds in each),
    )


def token_level(groups: Sequence[Group], speeds: Speeds) -> list[TokenLevel]:
    """Token-level speculative decoding on the texts of each setting whose tokens the base model has read."""
    return [_token_level(group, speeds) for group in groups if group.samples and group.mode == "correct"]


def _token_level(group: Group, speeds: Speeds) -> TokenLevel:
    agreed = {id(sample.trace): _agreed(sample.trace) for sample in group.samples if sample.trace}

    def by_problem(value: Callable[[list[bool]], float]) -> list[float]:
        return list(group.by_problem(lambda trace: value(agreed[id(trace)])).values())

    def whole(text: Callable[[list[bool]], float]) -> list[float]:
        """Seconds of a sample, from the milliseconds of its text after the first prefill."""
        answers = group.by_problem(
            lambda trace: speeds.request(trace.answer_call) if trace.answer_call else 0.0
        ).values()
        return [(speeds.prefill + ms) / 1000 + s for ms, s in zip(by_problem(text), answers, strict=True)]

    def drafted(window: int) -> list[float]:
        each = window * speeds.draft + speeds.prefill
        return whole(lambda tokens: each * _rounds(tokens, window))

    by_window = {window: drafted(window) for window in WINDOWS}
    window = min(by_window, key=lambda window: sum(by_window[window]))
    seconds, base_alone = by_window[window], whole(lambda tokens: speeds.base * len(tokens))
    share = ratio(by_problem(sum), by_problem(len))
    return TokenLevel(group.name, window, share, mean(seconds), ratio(base_alone, seconds))


def _agreed(trace: Trace) -> list[bool]:
    """For each token that the base model read, in order: whether it is drafted and its first choice."""
    agreed = []
    for step in trace.steps:
        corrected = {correction.at for correction in step.corrections}
        agreed += [token.regret == 0 and token.at not in corrected for token in step.reading]
    return agreed


def _rounds(agreed: Sequence[bool], window: int) -> int:
    """How often a window is drafted and read until the text is whole."""
    rounds = at = 0
    while at < len(agreed):
        drafted = agreed[at : at + window]
        at += 1 + (drafted.index(False) if False in drafted else window)
        rounds += 1
    return rounds
