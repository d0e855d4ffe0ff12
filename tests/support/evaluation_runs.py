"""A small evaluation on the scripted pair, and its file without what depends on time."""

import json

from specreason_sgl.evaluation.evaluate import RunOptions, evaluate
from specreason_sgl.evaluation.problems import Problem
from specreason_sgl.evaluation.records import Sample, run_head
from specreason_sgl.evaluation.settings import expand
from specreason_sgl.evaluation.tasks import Runtimes
from specreason_sgl.files import Record
from tests.support.evaluation_files import KNOBS
from tests.support.pair import ENDS, chance
from tests.support.scripted import answer

PROBLEMS = [Problem(f"p{i}", f"What is {i} + {i}?", str(2 * i)) for i in range(4)]
TIMES = {"start", "seconds", "cached_tokens", "wasted", "resumed"}  # `wasted`: what an abort let through


def write(side, turn, most):
    """Steps of some tokens that say something else each time; base and draft agree on some."""
    dice = chance(turn, side if chance(turn).random() < 0.5 else "both")
    return f"Step {dice.randrange(10**6)}.", "delimiter", min(dice.randrange(4, 9), most)


def digit(turn):
    return chance("digit", turn).randrange(10)


def answers(seen):
    """The answer to every question is 2."""
    return answer("\\boxed{2}", ENDS["eos"], completion_tokens=3) if seen.purpose == "answer" else None


def run(
    pair, path, *, modes=("base", "draft", "sequential", "correct"), problems=PROBLEMS, knobs=(), reward=None,
    **options,
):  # fmt: skip
    """The samples; the record is at `path`."""
    settings = expand(modes, {**KNOBS, **dict(knobs)}, reward=reward)
    how = RunOptions(**{"warm_up": False, **options})
    about = {"samples": how.samples, "concurrency": how.concurrency}
    head = run_head(problems, settings, data="x", draft_model="d", base_model="b", seed=0, **about)
    with Record(path, head, Sample) as record:
        return evaluate(problems, settings, record, Runtimes(pair.draft, pair.base, reward=reward), how)


def timeless(path):
    """A finished file's lines, sorted, without what depends on time."""

    def strip(value):
        if isinstance(value, dict):
            return {key: strip(item) for key, item in value.items() if key not in TIMES}
        return [strip(item) for item in value] if isinstance(value, list) else value

    head, *lines = path.read_text().splitlines()
    head = {key: value for key, value in json.loads(head).items() if key != "provenance"}
    return [head, *sorted(json.dumps(strip(json.loads(line)), sort_keys=True) for line in lines)]
