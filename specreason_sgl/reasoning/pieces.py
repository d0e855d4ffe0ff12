"""The next piece of the chain of thought: a drafted text as it is, corrected, or rewritten."""

import dataclasses
from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from specreason_sgl.lang.chat import THINK_CLOSE
from specreason_sgl.lang.encoding import UNFINISHED
from specreason_sgl.lang.logprobs import Choice, TokenLogprob
from specreason_sgl.reasoning.ahead import Judged, call_of, read, text_to_read
from specreason_sgl.reasoning.chain import Chain
from specreason_sgl.reasoning.repair import Repair, draw
from specreason_sgl.reasoning.run import Run
from specreason_sgl.reasoning.trace import Correction, End, ReadToken, Step
from specreason_sgl.reasoning.verifier import RESULT, Drafted
from specreason_sgl.reasoning.writing import write_step, write_with_base

CONTINUATION_TOKENS = 4  # written by the base model where its one token is not whole characters


def accept(run: Run, judged: Judged) -> Step:
    """A drafted text as it is, within the token budget.

    An end of the thinking that the base model regrets is taken out: the thinking goes on.
    """
    drafted = judged.drafted
    reading = tuple(locate_tokens(drafted, judged.tokens))
    piece = replace(_judged_step(judged), reading=reading)
    if judged.tokens and not run.config.judge:
        return _within_budget(run, piece)
    end_regrets = [token.regret or 0.0 for token in reading if token.at >= len(drafted.text)]
    if drafted.end in ("eos", "think") and max(end_regrets, default=0.0) > run.config.repair.end_delta:
        return replace(piece, end="delimiter")
    return piece


def _within_budget(run: Run, piece: Step) -> Step:
    """A piece that the base model read, counted in the base model's tokens.

    The draft model may have another vocabulary: by the base model's count its text can be too long, or can
    have been cut too early.
    """
    count, left = len(piece.reading), run.chain.step_tokens_left
    if count > left:
        text = piece.text[: max(piece.reading[left].at, 0)]
        reading = piece.reading[:left]
        return replace(piece, text=text, end="length", tokens=left, draft_tokens=left, reading=reading)
    end = piece.end
    if end in (None, "length"):
        end = "length" if count == left else None
    return replace(piece, end=end, tokens=count, draft_tokens=count)


def repair(run: Run, judged: Judged) -> Step:
    """What stands in the place of a drafted text that did not pass. A text that could not be judged is
    rewritten."""
    rejected = RejectedText(run, judged)
    return run.config.repair.apply(rejected) if judged.tokens or judged.judgement else rejected.rewrite()


@dataclasses.dataclass(frozen=True)
class RejectedText:
    """What a repair can make of a text (`repair.Rejected`)."""

    run: Run
    judged: Judged

    @property
    def chain(self) -> Chain:
        return self.run.chain

    def rewrite(self) -> Step:
        step = _judged_step(self.judged)
        return write_step(
            self.run, score=step.score, probabilities=step.probabilities, rejected=step.text, calls=step.calls
        )

    def correct(self, how: Repair) -> Step:
        return _correct(self.run, self.judged, how)

    def accept(self) -> Step:
        return accept(self.run, self.judged)


def _correct(run: Run, judged: Judged, how: Repair) -> Step:
    """The draft up to the first token that the base model regrets, and the base model's token there."""
    if not judged.tokens:
        judged = _with_tokens(run, judged)
    position, choice = _first_correction(run, judged, how)
    if choice is None or (not run.config.judge and position >= run.chain.step_tokens_left):
        return accept(run, judged)
    reading = list(locate_tokens(judged.drafted, judged.tokens))
    at = reading[position].at
    if at < 0 or UNFINISHED in choice.text:  # the token begins before the draft, or is a part of a character
        return _continue(run, judged, position)
    head = judged.drafted.whole[:at]
    text, end = _with_choice(run, head, choice, is_last=position + 1 >= run.chain.step_tokens_left)
    replacement = ReadToken(at, choice.text, round(choice.logprob, 4), choice.text, 0.0)
    return replace(
        _judged_step(judged),
        text=text,
        author="both",
        end=end,
        tokens=position + 1,
        draft_tokens=position,
        corrections=(_correction(judged, position, at, text[at:]),),
        reading=(*reading[:position], replacement),
    )


def _with_choice(run: Run, head: str, choice: Choice, is_last: bool) -> tuple[str, End | None]:
    """A text with the base model's token after it, and what that ends.

    Args:
        is_last: whether the step's tokens are used up.
    """
    if run.main.stream_executor.chat_template.is_end(choice.id):
        return head, "eos"
    if choice.text == THINK_CLOSE and run.thinking:
        return head, "think"
    text = head + choice.text
    if text.endswith(run.config.delimiter):
        return text.removesuffix(run.config.delimiter), "delimiter"
    return text, "length" if is_last else None


def _with_tokens(run: Run, judged: Judged) -> Judged:
    """Read the tokens of a step that a verifier rejected without them."""
    request = read(run, judged.drafted, run.chain.lead)
    try:
        tokens = request.state.get_meta_info(RESULT)["logprobs"]
        return dataclasses.replace(judged, tokens=tokens, calls=(*judged.calls, call_of(run, request)))
    finally:
        run.end(request.state)


def _first_correction(run: Run, judged: Judged, how: Repair) -> tuple[int, Choice | None]:
    """The first position where the base model writes another token, and that token; None if there is none."""
    config, start = run.config, 0
    is_end = run.main.stream_executor.chat_template.is_end
    while (offset := how.cut(judged.tokens[start:], config.temperature)) is not None:
        position = start + offset
        token = judged.tokens[position]
        choice = draw(token.first, rng=run.rng, **config.sampling)
        if choice.id != token.id and not (is_end(choice.id) and is_end(token.id)):
            return position, choice
        start = position + 1
    return 0, None


def _continue(run: Run, judged: Judged, position: int) -> Step:
    """The draft up to a position, and a few tokens that the base model writes after it."""
    drafted = judged.drafted
    reading = list(locate_tokens(drafted, judged.tokens))
    head = drafted.whole[: max(reading[position].at, 0)]
    max_tokens = min(CONTINUATION_TOKENS, run.chain.step_tokens_left - position)
    written = write_with_base(run, run.chain.lead + head, max_tokens)
    return replace(
        _judged_step(judged),
        text=head + written.text,
        author="both" if head else "base",
        end=None if written.end == "length" else written.end,
        tokens=position + max(written.call.completion_tokens, 1),
        draft_tokens=position,
        corrections=(_correction(judged, position, len(head), written.text),),
        reading=tuple(token for token in reading[:position] if token.at < len(head)),
        calls=(*judged.calls, written.call),
    )


def _judged_step(judged: Judged) -> Step:
    """A drafted text as a step, with its judgement."""
    drafted, judgement = judged.drafted, judged.judgement
    return Step(
        text=drafted.text,
        author="draft",
        end=drafted.end,
        tokens=drafted.tokens,
        draft_tokens=drafted.tokens,
        score=judgement.value if judgement else None,
        probabilities=dict(judgement.probabilities) if judgement else {},
        calls=judged.calls,
    )


def _correction(judged: Judged, position: int, at: int, replacement: str) -> Correction:
    """The record of a correction. Of a character that several tokens share, the whole is replaced.

    Args:
        position: of the corrected token among the tokens.
        at: of the correction in the text.
        replacement: the base model's text.
    """
    tokens = judged.tokens[position:]
    length = len(next((token.text for token in tokens if token.text), ""))
    replaced = judged.drafted.whole[at : at + length] or tokens[0].text
    return Correction(at, replaced, replacement, round(tokens[0].regret, 4), position)


def locate_tokens(drafted: Drafted, tokens: Sequence[TokenLogprob]) -> Iterator[ReadToken]:
    """The tokens that the base model read, with their positions in the drafted text.

    A token that began in the text before has a position below 0. A token of the delimiter or of the end has a
    position at the text's end or beyond.
    """
    texts = [token.text for token in tokens]
    if drafted.end == "eos" and tokens and not drafted.text.endswith(texts[-1] or "\0"):
        texts[-1] = ""  # the end of the turn is not text
    whole = "".join(texts)
    read_text = text_to_read(drafted)
    is_whole = whole.endswith(read_text) or read_text.endswith(whole)
    at = len(read_text if is_whole else drafted.text) - len(whole)
    for token, text in zip(tokens, texts, strict=True):
        first = token.first[0].text if token.first else token.text
        yield ReadToken(at, token.text, round(token.logprob, 4), first, round(token.regret, 4))
        at += len(text)
