"""What joins the chain of thought: a drafted text that is kept, one that is corrected, or what the base model
writes instead."""

import dataclasses
from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from specreason_sgl.lang.chat import THINK_CLOSE
from specreason_sgl.lang.logprobs import UNFINISHED, Choice, TokenLogprob
from specreason_sgl.reasoning.ahead import Judged, call_of, read, text_to_read
from specreason_sgl.reasoning.repair import draw
from specreason_sgl.reasoning.run import Run
from specreason_sgl.reasoning.trace import Correction, ReadToken, Step
from specreason_sgl.reasoning.verifiers import RESULT, Drafted
from specreason_sgl.reasoning.writing import write_step, written_by_base

FEW = 4  # tokens that the base model writes where its one token is no whole text


def kept(run: Run, judged: Judged) -> Step:
    """A drafted text as it is, within the budget. An end that the base model regrets is taken out, and the
    thinking goes on."""
    drafted = judged.drafted
    reading = tuple(placed(drafted, judged.tokens))
    piece = replace(_judged_step(judged), reading=reading)
    if judged.tokens and not run.config.judge:
        return _within_budget(run, piece)
    regrets = [token.regret for token in reading if token.at >= len(drafted.text)]
    if drafted.end in ("eos", "think") and max(regrets, default=0.0) > run.config.repair.end_delta:
        return replace(piece, end="delimiter")
    return piece


def _within_budget(run: Run, piece: Step) -> Step:
    """A piece that was read, counted in the base model's tokens. The draft model's are not the same where it
    has another vocabulary: it may have written too much, or been cut too early."""
    count, left = len(piece.reading), run.chain.step_tokens_left
    if count > left:
        text = piece.text[: max(piece.reading[left].at, 0)]
        reading = piece.reading[:left]
        return replace(piece, text=text, end="length", tokens=left, draft_tokens=left, reading=reading)
    end = piece.end
    if end in (None, "length"):
        end = "length" if count == left else None
    return replace(piece, end=end, tokens=count, draft_tokens=count)


def rewritten(run: Run, judged: Judged) -> Step:
    """The base model writes it."""
    judgement = _judged_step(judged)
    return write_step(
        run, score=judgement.score, probabilities=judgement.probabilities,
        rejected=judged.drafted.text, calls=judged.calls,
    )  # fmt: skip


def corrected(run: Run, judged: Judged) -> Step:
    """What stands before the first token that the base model regrets, and the base model's token there. A
    text that was not read is rewritten."""
    config, drafted = run.config, judged.drafted
    if not judged.tokens:
        if not judged.judgement:
            return rewritten(run, judged)
        judged = _read(run, judged)
    cut, choice = _first_correction(run, judged)
    if choice is None or (not config.judge and cut >= run.chain.step_tokens_left):
        return kept(run, judged)
    reading = list(placed(drafted, judged.tokens))
    at = reading[cut].at
    if at < 0 or UNFINISHED in choice.text:  # no whole characters, or one token with what is kept already
        return _continued(run, judged, cut)
    head = drafted.whole[:at]
    text, end = head + choice.text, None
    if run.main.stream_executor.chat_template.is_end(choice.id):
        text, end = head, "eos"
    elif choice.text == THINK_CLOSE and run.thinking:
        text, end = head, "think"
    elif text.endswith(config.delimiter):
        text, end = text.removesuffix(config.delimiter), "delimiter"
    elif cut + 1 >= run.chain.step_tokens_left:
        end = "length"
    put = ReadToken(at, choice.text, round(choice.logprob, 4), choice.text, 0.0)
    return replace(
        _judged_step(judged),
        text=text,
        author="both",
        end=end,
        tokens=cut + 1,
        draft_tokens=cut,
        corrections=(_correction(drafted, judged.tokens, cut, at, text[at:]),),
        reading=(*reading[:cut], put),
    )


def _read(run: Run, judged: Judged) -> Judged:
    """A step that a verifier rejected without reading its tokens, with them."""
    request = read(run, judged.drafted, run.chain.lead)
    try:
        tokens = request.state.get_meta_info(RESULT)["logprobs"]
        return dataclasses.replace(judged, tokens=tokens, calls=(*judged.calls, call_of(run, request)))
    finally:
        run.done(request.state)


def _first_correction(run: Run, judged: Judged) -> tuple[int, Choice | None]:
    """The first position where the base model puts another token, and that token; None: nowhere."""
    repair, config, start = run.config.repair, run.config, 0
    is_end = run.main.stream_executor.chat_template.is_end
    while (found := repair.cut(judged.tokens[start:], config.temperature)) is not None:
        position = start + found
        token = judged.tokens[position]
        choice = draw(token.first, config.temperature, config.top_p, run.dice)
        if choice.id != token.id and not (is_end(choice.id) and is_end(token.id)):
            return position, choice
        start = position + 1
    return 0, None


def _continued(run: Run, judged: Judged, cut: int) -> Step:
    """What is kept, and a few tokens that the base model writes after it."""
    drafted = judged.drafted
    reading = list(placed(drafted, judged.tokens))
    head = drafted.whole[: max(reading[cut].at, 0)]
    few = min(FEW, run.chain.step_tokens_left - cut)
    written = written_by_base(run, run.chain.lead + head, few)
    return replace(
        _judged_step(judged),
        text=head + written.text,
        author="both" if head else "base",
        end=None if written.end == "length" else written.end,
        tokens=cut + written.call.completion_tokens,
        draft_tokens=cut,
        corrections=(_correction(drafted, judged.tokens, cut, len(head), written.text),),
        reading=tuple(token for token in reading[:cut] if token.at < len(head)),
        calls=(*judged.calls, written.call),
    )


def _judged_step(judged: Judged) -> Step:
    """A drafted text as a step of the draft's, with what was said of it."""
    drafted, judgement = judged.drafted, judged.judgement
    score, probabilities = (judgement.value, dict(judgement.probabilities)) if judgement else (None, {})
    return Step(
        drafted.text, "draft", drafted.end, drafted.tokens, drafted.tokens, score, probabilities,
        calls=judged.calls,
    )  # fmt: skip


def _correction(drafted: Drafted, tokens: Sequence[TokenLogprob], cut: int, at: int, text: str) -> Correction:
    """Of a character that several tokens share, all of it is struck."""
    struck = next((token.text for token in tokens[cut:] if token.text), "")
    struck = drafted.whole[at : at + len(struck)] or tokens[cut].text
    return Correction(at, struck, text, round(tokens[cut].regret, 4), cut)


def placed(drafted: Drafted, tokens: tuple[TokenLogprob, ...]) -> Iterator[ReadToken]:
    """Tokens with their positions in the drafted text. One that began in the text before has a position
    below 0, one of the delimiter or the end one at the text's end or beyond."""
    texts = [token.text for token in tokens]
    if drafted.end == "eos" and tokens and not drafted.text.endswith(texts[-1] or "\0"):
        texts[-1] = ""  # the turn's end is no text
    whole = "".join(texts)
    full = text_to_read(drafted)
    at = len(full if whole.endswith(full) or full.endswith(whole) else drafted.text) - len(whole)
    for token, text in zip(tokens, texts, strict=True):
        first = token.first[0].text if token.first else token.text
        yield ReadToken(at, token.text, round(token.logprob, 4), first, round(token.regret, 4))
        at += len(text)
