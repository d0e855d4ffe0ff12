"""What a run's counts would take at other speeds: an estimate from stated assumptions, not a measurement."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from specreason_sgl.errors import ConfigError
from specreason_sgl.evaluation.estimates import Estimate, mean, ratio
from specreason_sgl.evaluation.groups import Group, alone, requests
from specreason_sgl.reasoning.trace import Side, Trace


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
        prefill, token = (self.draft, self.draft) if side == "draft" else (self.prefill, self.base)
        each = (prefill + token * max(call.completion_tokens - 1, 0) for call in requests(trace, side))
        return sum(each) / 1000


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
