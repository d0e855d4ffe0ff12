"""`Chain`: the chain of thought as it grows, and when it ends (SpecReason, arXiv 2504.07891, section 4)."""

import re
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from specreason_sgl.reasoning.config import SpecReasonConfig
from specreason_sgl.reasoning.trace import Step, Stop, joined

OnStep = Callable[[Step], None]

_ANSWER = re.compile(
    r"\\boxed\s*\{\s*(?:[^{}\s]|\{+\s*[^{}\s])|^\W*(?:the )?(?:final )?answer\W*:\W*\w",
    re.IGNORECASE | re.MULTILINE,
)


class Chain:
    """Finished steps, and the one that is being written. It grows by pieces: a `Step` whose `end` is None is
    a part of one.

    Args:
        config: the run's settings.
        steps: to go on from; the last one may be unfinished.
        on_step: called with each step as it is finished.
    """

    def __init__(self, config: SpecReasonConfig, steps: Sequence[Step] = (), on_step: OnStep | None = None):
        self.config = config
        self.steps = list(steps)
        self.open = self.steps.pop() if steps and steps[-1].end is None else None
        self._on_step = on_step
        self._length = len(self.text)  # of what the state has

    def copy(self) -> "Chain":
        """One that grows apart from this, and tells nobody."""
        chain = Chain(self.config, self.all_steps)
        chain._length = self._length
        return chain

    @property
    def all_steps(self) -> list[Step]:
        """With the unfinished one."""
        return [*self.steps, self.open] if self.open else list(self.steps)

    @property
    def scores(self) -> list[float]:
        """One of each finished step that was judged. Of a step that was corrected and judged again it is the
        last, as in the trace: a run that is resumed decides as one that did not fail."""
        return [step.score for step in self.steps if step.score is not None]

    @property
    def text(self) -> str:
        return joined(self.all_steps, self.config.delimiter)

    @property
    def lead(self) -> str:
        """What stands between the text in the state and the next piece."""
        if self.open or not self.steps or self.steps[-1].end == "length":
            return ""
        return self.rest_of(self.config.delimiter)

    def rest_of(self, text: str) -> str:
        """A text that follows the chain, without what the state has of it: a base model's line break may
        have been the delimiter's first half."""
        return (self.text + text)[self._length :]

    def append(self, piece: Step) -> str:
        """Go on with a piece.

        Returns:
            What the state is to go on with.
        """
        text = self.lead + piece.text
        self._length += len(text)
        step = _merged(self.open, piece) if self.open else piece
        self.open = None
        while self.config.delimiter in step.text:  # two texts without it can make one
            finished, step = _split(step, self.config.delimiter)
            self._finish(finished)
        if step.end:
            self._finish(step)
        elif step.text:
            self.open = step
        return text

    def _finish(self, step: Step) -> None:
        self.steps.append(step)
        if self._on_step:
            self._on_step(step)

    def why_stop(self) -> Stop | None:
        """Why nothing more is written, or None.

        `end`: the last step ended the turn or the thinking. `answer`: it holds `\\boxed{...}` or
        "Answer: ...". `repetition`: it says what the step before it said. `budget`: the tokens are used up.
        """
        if self.steps:
            last = self.steps[-1]
            if last.end in ("eos", "think"):
                return "end"
            if _ANSWER.search(last.text):
                return "answer"
            before = self.steps[-2].text.strip() if len(self.steps) > 1 else ""
            if before and last.text.strip() == before:
                return "repetition"
        return "budget" if self.tokens_left <= 0 else None

    @property
    def tokens_left(self) -> int:
        """What is left of the token budget. A step counts one at least, whatever its server said."""
        return self.config.token_budget - sum(max(step.tokens, 1) for step in self.all_steps)

    @property
    def step_tokens_left(self) -> int:
        """Most tokens of the next piece."""
        used = self.open.tokens if self.open else 0
        return max(min(self.config.step_tokens - used, self.tokens_left), 1)


def _merged(step: Step, piece: Step) -> Step:
    """A step, and what comes after it in the same step."""
    at = len(step.text)
    corrections = [replace(correction, at=correction.at + at) for correction in piece.corrections]
    if corrections and not step.corrections:
        corrections[0] = replace(corrections[0], kept=corrections[0].kept + step.draft_tokens)
    elif corrections:
        since = step.draft_tokens - sum(correction.kept for correction in step.corrections)
        corrections[0] = replace(corrections[0], kept=corrections[0].kept + since)
    judged = step if piece.score is None else piece
    return replace(
        piece,
        text=step.text + piece.text,
        author=step.author if step.author == piece.author else "both",
        tokens=step.tokens + piece.tokens,
        draft_tokens=step.draft_tokens + piece.draft_tokens,
        score=judged.score,
        probabilities=judged.probabilities,
        corrections=(*step.corrections, *corrections),
        reading=(*step.reading, *(replace(token, at=token.at + at) for token in piece.reading)),
        calls=(*step.calls, *piece.calls),
        rejected=step.rejected if piece.rejected is None else piece.rejected,
        undrafted=step.undrafted or piece.undrafted,
    )


def _split(step: Step, delimiter: str) -> tuple[Step, Step]:
    """A step's part before the first delimiter in it, with all that is known of it, and the rest."""
    text, _, rest = step.text.partition(delimiter)
    finished = replace(
        step,
        text=text,
        end="delimiter",
        corrections=tuple(replace(c, at=min(c.at, len(text))) for c in step.corrections),
    )
    return finished, Step(rest, step.author, step.end, 0)
