"""How much of a run is still to do, and about how long that takes."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from specreason_sgl.evaluation.evaluate import RunOptions
from specreason_sgl.evaluation.records import Sample
from specreason_sgl.evaluation.settings import Setting


@dataclass(frozen=True)
class Left:
    """What a setting still has to do.

    Attributes:
        samples: their number.
        sample_seconds: about how long one takes.
        seconds: about how long all of them take, as many at a time as the run solves.
    """

    samples: int
    sample_seconds: float
    seconds: float


def time_left(
    problems: int,
    settings: Sequence[Setting],
    options: RunOptions,
    recorded: Sequence[Sample],
    tried: Mapping[str, float],
) -> dict[str, Left]:
    """What each setting still has to do, by its name: by the mean time of its samples so far.

    Args:
        problems: number of the run's problems.
        recorded: the samples that the run's file has.
        tried: seconds of a sample, by setting, where the file has none. A setting that is not here either
            takes the mean of the others; there must be one.
    """
    done = Counter(sample.setting for sample in recorded if options.is_done(sample))
    times = defaultdict(list)
    for sample in recorded:
        if sample.trace:
            times[sample.setting].append(sample.trace.seconds)
    means = {**tried, **{name: fmean(seconds) for name, seconds in times.items()}}
    usual = fmean(means.values())
    left = {}
    for name in (setting.name for setting in settings):
        samples, seconds = problems * options.samples - done[name], means.get(name, usual)
        left[name] = Left(samples, seconds, samples * seconds / options.concurrency)
    return left
