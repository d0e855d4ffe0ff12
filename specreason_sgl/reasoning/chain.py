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
    """The chain of thought: finished steps, and the step that is being written.

    It grows by pieces. A piece is a `Step`; if its `end` is None, it is a part of a step.

    Args:
        config: the run's settings.
        steps: the steps to resume from; the last one may be unfinished.
        on_step: called with each step as it is finished.
    """

    def __init__(self, config: SpecReasonConfig, steps: Sequence[Step] = (), on_step: OnStep | None = None):
        self.config = config
        self.steps = list(steps)
        self.open_step = self.steps.pop() if steps and steps[-1].end is None else None
        self._on_step = on_step
        # Counted as the chain grows: a long one is not joined again for each piece.
        self._tokens = sum(max(step.tokens, 1) for step in self.steps)
        self._length = len(joined(self.steps, config.delimiter))  # characters, without the unfinished step
        self._written = len(self.text)  # characters of the text that are in the program's state

    def copy(self) -> "Chain":
        """An independent copy, without `on_step`."""
        chain = Chain(self.config, self.all_steps)
        chain._written = self._written
        return chain

    @property
    def all_steps(self) -> list[Step]:
        """The finished steps and the unfinished one."""
        return [*self.steps, self.open_step] if self.open_step else list(self.steps)

    @property
    def scores(self) -> list[float]:
        """The scores of the finished steps that were judged.

        A step that was corrected and judged again has its last score, as in the trace, so that a resumed run
        decides as a run that did not fail.
        """
        return [step.score for step in self.steps if step.score is not None]

    @property
    def text(self) -> str:
        """The text of all steps."""
        return joined(self.all_steps, self.config.delimiter)

    @property
    def lead(self) -> str:
        """The text between the program's state and the next piece: the delimiter after a step, or the rest
        of it if the base model has already written its beginning."""
        if self.open_step or not self.steps or self.steps[-1].end == "length":
            return ""
        return self.config.delimiter[self._written - self._length :]

    @property
    def closing(self) -> str:
        """The text between the program's state and what follows the chain: a delimiter, or what is missing of
        it. A chain whose last step is empty has one already."""
        text = self.text.removesuffix(self.config.delimiter) + self.config.delimiter
        return text[self._written :]

    def append(self, piece: Step) -> str:
        """Append a piece.

        Returns:
            The text to append to the program's state.
        """
        text = self.lead + piece.text
        self._written += len(text)
        step = _merge(self.open_step, piece) if self.open_step else piece
        self.open_step = None
        while self.config.delimiter in step.text:  # two pieces can make a delimiter together
            finished, step = _split(step, self.config.delimiter)
            self._finish(finished)
        if step.end:
            self._finish(step)
        elif step.text or step.tokens:  # tokens without text count, or a run could go on for ever
            self.open_step = step
        return text

    def _finish(self, step: Step) -> None:
        # A correction in the delimiter, which is not in the text, is at its end.
        within = (replace(each, at=min(each.at, len(step.text))) for each in step.corrections)
        step = replace(step, corrections=tuple(within))
        if self.steps and self.steps[-1].end != "length":
            self._length += len(self.config.delimiter)
        self._length += len(step.text)
        self._tokens += max(step.tokens, 1)
        self.steps.append(step)
        if self._on_step:
            self._on_step(step)

    def why_stop(self) -> Stop | None:
        """Why the chain ends here, or None.

        `end`: the last step ended the turn or the thinking. `answer`: it has `\\boxed{...}` or
        "Answer: ...". `repetition`: it repeats the step before it. `budget`: the token budget is used up.
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
        """Tokens left of the budget. A step counts at least one token, whatever its server reported."""
        unfinished = max(self.open_step.tokens, 1) if self.open_step else 0
        return self.config.token_budget - self._tokens - unfinished

    @property
    def step_tokens_left(self) -> int:
        """The most tokens that the next piece may have."""
        used = self.open_step.tokens if self.open_step else 0
        return max(min(self.config.step_tokens - used, self.tokens_left), 1)


def _merge(step: Step, piece: Step) -> Step:
    """An unfinished step with its next piece."""
    at = len(step.text)
    corrections = [replace(correction, at=correction.at + at) for correction in piece.corrections]
    if corrections:
        corrections[0] = replace(corrections[0], kept=corrections[0].kept + step.kept_last)
    judged = step if piece.score is None else piece
    undrafted = step if step.undrafted else piece
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
        undrafted=undrafted.undrafted,
        undrafted_detail=undrafted.undrafted_detail,
    )


def _split(step: Step, delimiter: str) -> tuple[Step, Step]:
    """Split a step at its first delimiter. The first part keeps the step's records, the rest has none."""
    text, _, rest = step.text.partition(delimiter)
    return replace(step, text=text, end="delimiter"), Step(rest, step.author, step.end, 0)
