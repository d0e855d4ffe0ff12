"""Which disagreements of the two models matter for the answer.

The draft model solves problems with known answers, greedily, and the base model reads each chain of thought
in one prefill. Where the base model would have written another token, the chain branches: it goes on from the
drafted token, and from the base model's. The disagreement is harmful if only the base model's token leads to
a right answer (after Judge Decoding, arXiv 2501.19309, and R2R, arXiv 2505.21600).

The base model continues both branches, greedily: a correction aims at what it would write. If the pair went
on with corrections, the label would depend on what happens at later disagreements, and on the very `delta`
that is in question.

Going on from a drafted token, the greedy base model writes the draft's own text as far as it agrees with it.
So the branch of a drafted token is that of the base model's token at the next disagreement, of any regret; at
the last one it is the draft itself. A continuation therefore serves two disagreements that follow each other.
"""

import itertools
import random
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import sglang as sgl
from sglang.lang.interpreter import ProgramState

from specreason_sgl import files
from specreason_sgl.errors import SpecReasonError
from specreason_sgl.evaluation.features import FEATURES, features
from specreason_sgl.evaluation.grading import grade
from specreason_sgl.evaluation.problems import Problem
from specreason_sgl.evaluation.recorded import PairHead, work_recorded
from specreason_sgl.evaluation.signals import TOP, Tokens
from specreason_sgl.files import Line
from specreason_sgl.lang.chat import THINK_CLOSE
from specreason_sgl.lang.endpoint import Endpoint
from specreason_sgl.lang.fork import fork_to
from specreason_sgl.lang.logprobs import TokenLogprob, logprobs
from specreason_sgl.reasoning.batch import run_batch
from specreason_sgl.reasoning.config import SpecReasonConfig
from specreason_sgl.reasoning.run import Run
from specreason_sgl.reasoning.solve import solve_alone
from specreason_sgl.reasoning.trace import Step
from specreason_sgl.reasoning.writing import final_answer, stream_out

REGRET = 0.5  # nats: disagreements above it are branched
_CHAIN = "chain"


class Disagreement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A drafted token in whose place the base model would have written another, and where both lead.

    Attributes:
        at: position of the token's first character in the chain of thought.
        drafted: the drafted token's text; empty if it ended the turn.
        base: the base model's first choice.
        features: by name; see `evaluation.features`.
        drafted_right: whether the answer is right if the base model goes on after the drafted token.
        base_right: the same after its own token.
    """

    at: int
    drafted: str
    base: str
    features: dict[str, float]
    drafted_right: bool
    base_right: bool

    @property
    def harmful(self) -> bool:
        return self.base_right and not self.drafted_right


class Branched(Line, frozen=True, forbid_unknown_fields=True):
    """A problem whose drafted chain of thought was branched.

    Attributes:
        id, hash: of the problem.
        chain: the draft model's chain of thought.
        right: whether the draft model's own answer is right.
        count: number of disagreements with a regret above `REGRET`.
        disagreements: those of them that were branched, in order.
    """

    id: str
    hash: str
    chain: str
    right: bool
    count: int
    disagreements: tuple[Disagreement, ...]

    @property
    def key(self) -> str:
        return self.id


class DisagreementsHead(PairHead, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first line of a record: what the branches depend on."""

    kind: Literal["specreason-sgl disagreements"] = "specreason-sgl disagreements"
    version: Literal[1] = 1
    token_budget: int
    answer_tokens: int
    branches: int
    seed: int
    features: tuple[str, ...]


def read_branched(path: Path) -> list[Branched]:
    """The problems of a record. Raises `ConfigError` if the file is none."""
    return files.read_record(path, DisagreementsHead, Branched)[1]


def branch_problems(
    problems: Sequence[Problem],
    *,
    draft: Endpoint,
    base: Endpoint,
    config: SpecReasonConfig,
    record: Path,
    data: str = "",
    branches: int = 4,
    seed: int = 0,
    concurrency: int = 4,
    progress_bar: bool = False,
) -> list[Branched]:
    """Have the draft model solve problems, and the base model go on from both sides of disagreements.

    Args:
        problems: with known answers and different ids.
        draft, base: the runtimes.
        config: prompt and budgets, with a temperature of 0; its other settings are not used.
        record: a JSON Lines file that receives each problem as soon as it is done. Problems that it has are
            not done again: the same call continues an interrupted run.
        data: where the problems come from, for the record.
        branches: the most disagreements of a chain that are branched: they are drawn at random, spread over
            the chain.
        seed: of the draw.
        concurrency: problems at once. The continuations of a problem, at most twice `branches`, run together.
        progress_bar: draw one on standard error.

    Raises:
        ConfigError: the record is of another pair or other settings.
        SpecReasonError: a runtime failed; what was done before is in the record.
    """
    head = DisagreementsHead.of(
        draft,
        base,
        config,
        data=data,
        token_budget=config.token_budget,
        answer_tokens=config.answer_tokens,
        branches=branches,
        seed=seed,
        features=FEATURES,
    )
    draft, base = draft.with_template(config.template), base.with_template(config.template)

    def branch(problem: Problem) -> Branched:
        return _branched(problem, draft, base, config, branches, random.Random(f"{seed} {problem.id}"))

    return work_recorded(
        branch, problems, record, head, Branched,
        endpoints=[draft, base], concurrency=concurrency, progress_bar=progress_bar,
    )  # fmt: skip


def _branched(
    problem: Problem,
    draft: Endpoint,
    base: Endpoint,
    config: SpecReasonConfig,
    branches: int,
    rng: random.Random,
) -> Branched:
    """The draft model's chain of thought of a problem, with some of its disagreements branched."""
    trace = solve_alone(problem.prompt, endpoint=draft, side="draft", config=config)
    chain, ends_turn = trace.reasoning, any(step.end == "eos" for step in trace.steps[-1:])
    read, drafted = _read_by_both(problem, chain, ends_turn, draft, base, config)
    differing = [i for i, token in enumerate(read.tokens) if _differs(token, base.chat_template.is_end)]
    next_of = dict(itertools.pairwise([*differing, len(read.tokens)]))
    above = [i for i in differing if read.tokens[i].regret > REGRET]
    chosen = spread(above, branches, rng)

    def is_right(position: int) -> bool:
        """Whether the base model's answer is right if it goes on from the draft before a token; after the
        last token it only answers."""
        is_whole = position == len(read.tokens)
        state = _go_on.run(
            question=problem.prompt, chain=chain[: read.starts[position]], tokens=position,
            is_whole=is_whole, config=config, backend=base, use_thread=False,
        )  # fmt: skip
        return grade(problem, state["trace"].answer)

    positions = sorted({*chosen, *(next_of[i] for i in chosen)})
    results = run_batch(is_right, positions, [base], 2 * branches, False)
    right = dict(zip(positions, _without_failures(results), strict=True))

    def disagreement(i: int) -> Disagreement:
        token, at = read.tokens[i], read.starts[i]
        begins_step = not chain[:at] or chain[:at].endswith(config.delimiter)
        values = features(token, drafted.token_at(at), begins_step)
        return Disagreement(at, token.text, token.first[0].text, values, right[next_of[i]], right[i])

    return Branched(
        id=problem.id,
        hash=problem.hash,
        chain=chain,
        right=grade(problem, trace.answer),
        count=len(above),
        disagreements=tuple(map(disagreement, chosen)),
    )


class _Reading(NamedTuple):
    """A chain of thought as a model read it.

    Attributes:
        tokens: the model's own; the end of the turn, if it is among them, has no text.
        starts: positions of their first characters in the chain, and the chain's length.
    """

    tokens: Tokens
    starts: Sequence[int]

    def token_at(self, at: int) -> TokenLogprob:
        """The token with the character at a position; the last one at the chain's end."""
        return self.tokens[bisect_right(self.starts, at, hi=len(self.tokens)) - 1]


def _read_by_both(
    problem: Problem, chain: str, ends_turn: bool, draft: Endpoint, base: Endpoint, config: SpecReasonConfig
) -> tuple[_Reading, _Reading]:
    """How the base model and the draft model read a chain, and the turn's end if it has one."""
    if not chain and not ends_turn:
        return _Reading((), (0,)), _Reading((), (0,))
    prompt = config.prompt(problem.prompt)
    state = _read.run(prompt=prompt, chain=chain, ends_turn=ends_turn, draft=draft, backend=base)

    def reading(tokens: list[TokenLogprob]) -> _Reading:
        if ends_turn:
            tokens[-1] = tokens[-1]._replace(text="")
        lengths = [len(token.text) for token in tokens]
        starts = itertools.accumulate(lengths, initial=len(chain) - sum(lengths))
        return _Reading(tokens, [max(start, 0) for start in starts])

    base_tokens, draft_tokens = map(list, state["tokens"])
    return reading(base_tokens), reading(draft_tokens)


@sgl.function
def _read(s: ProgramState, prompt: str, chain: str, ends_turn: bool, draft: Endpoint) -> None:
    s += sgl.user(prompt)
    s += sgl.assistant_begin()
    s += s.stream_executor.chat_template.thinking_prefix
    readers = s.fork(1)[0], fork_to(s, draft)
    for reader in readers:
        reader += logprobs(_CHAIN, chain, TOP, end_of_turn=ends_turn)
    s["tokens"] = tuple(reader.get_meta_info(_CHAIN)["logprobs"] for reader in readers)


@sgl.function
def _go_on(
    s: ProgramState, question: str, chain: str, tokens: int, is_whole: bool, config: SpecReasonConfig
) -> None:
    """Go on from a chain of thought of some tokens, unless it is whole, and answer."""
    run = Run(question, config)
    with run.start(s, base=s.stream_executor.backend):
        s += run.chain.append(Step(chain, "draft", None, tokens))
        left = 0 if is_whole else int(min(config.token_budget - tokens, run.room(s)))
        if left > 0:
            stops = [THINK_CLOSE] if run.thinking else None
            written = stream_out(run, "reasoning", "base", "reason", max_tokens=left, stop=stops)
            run.chain.append(written.as_step("base"))
        s["trace"] = run.trace("end", final_answer(run, "base", "end"))


def _without_failures(results: Iterable[bool | SpecReasonError]) -> Iterator[bool]:
    for result in results:
        if isinstance(result, SpecReasonError):
            raise result
        yield result


def _differs(token: TokenLogprob, is_end: Callable[[int], bool]) -> bool:
    """Whether the base model's first choice is another token; all ends of the turn are the same."""
    first = token.first[0].id
    return first != token.id and not (is_end(first) and is_end(token.id))


def spread(positions: Sequence[int], most: int, rng: random.Random) -> list[int]:
    """At most so many of some positions: one at random from each of as many equal parts."""
    if len(positions) <= most:
        return list(positions)
    bounds = itertools.pairwise(i * len(positions) // most for i in range(most + 1))
    return [positions[rng.randrange(low, high)] for low, high in bounds]
