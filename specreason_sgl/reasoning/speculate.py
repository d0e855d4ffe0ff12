"""Speculative reasoning (SpecReason, arXiv 2504.07891) as programs of SGLang's language.

`speculate` is the algorithm; it runs on the base endpoint and forks to the draft. `alone` is one model by
itself, for comparison. `solve`, `solve_alone` and `solve_batch` run them and return the `Trace`.
"""

import contextlib
import re
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass, replace

import sglang as sgl
from sglang.lang.interpreter import ProgramState
from tqdm import tqdm

from specreason_sgl.errors import ConfigError, ContextLengthExceeded, SpecReasonError
from specreason_sgl.lang.chat import THINK_CLOSE
from specreason_sgl.lang.endpoint import Endpoint
from specreason_sgl.lang.score import TokenLogprob
from specreason_sgl.reasoning.config import Question, SpecReasonConfig
from specreason_sgl.reasoning.drafting import Drafts, Versions
from specreason_sgl.reasoning.run import Cancel, OnText, Run, Writing, Written
from specreason_sgl.reasoning.stopping import why_stop
from specreason_sgl.reasoning.trace import Call, Side, Step, Stop, Trace
from specreason_sgl.reasoning.verifiers import Drafted, Judgement, is_askable, judgement

OnStep = Callable[[Step], None]

# What leads from the chain of thought to the final answer: closing the thinking, or, in a model that does
# not think apart, a few words.
ANSWER_LEAD = "Final answer:"
_SENTENCE_END = re.compile(r"[.!?](?=\s)|[。！？]|(?=\n)")


@sgl.function
def speculate(
    s,
    question: Question,
    draft: Endpoint,
    config: SpecReasonConfig,
    on_step: OnStep | None = None,
    on_text: OnText | None = None,
    timeout: float | None = None,
    cancel: Cancel | None = None,
    resume: Trace | None = None,
):
    """SpecReason: draft, judge, keep or rewrite, while the draft model works ahead.

    The draft model writes up to `config.lookahead` steps beyond the one in judgement. A rejection aborts it,
    and it begins again after the rewritten step. Under greedy decoding the steps are the same for every
    `lookahead` and `eager_rewrite`.

    Run it on the base endpoint. `s["trace"]` is the `Trace`. Arguments and errors as in `solve`.
    """
    base = s.stream_executor.backend
    steps = list(resume.steps) if resume else []

    def so_far(stop: Stop = "failed", answer: str = "", call: Call | None = None) -> Trace:
        wasted = run.all_wasted(0) if stop == "failed" else run.all_wasted()
        return Trace(
            question=_text(question),
            mode="specreason",
            draft_model=draft.get_model_name(),
            base_model=base.get_model_name(),
            config=config.as_dict(),
            steps=tuple(steps),
            stop=stop,
            answer=answer,
            answer_call=call,
            seconds=run.now(),
            wasted=(resume.wasted if resume else ()) + wasted,
            earlier=_earlier(question),
        )

    seconds = resume.seconds if resume else 0.0
    with Run(s, config, timeout, cancel, so_far, seconds, base=base, draft=draft) as run:
        run.ask(question)
        s += config.delimiter.join(step.text for step in steps)
        values = [step.score for step in steps if step.score is not None]  # of every step judged so far
        judged: deque[_Judged] = deque()
        drafts, rewrite = Drafts(run, s, draft), None
        # Where a verifier wants the base model's own step, that is begun early and stands for the rewrite.
        may_begin_early = not getattr(config.verifier, "wants_own_step", False)

        def begin_rewrite() -> None:
            nonlocal rewrite
            rewrite = rewrite or run.begin(s.fork(1)[0], "base", "rewrite", steps)

        while not (stop := why_stop(steps, config) or ("context" if run.room(s) <= 0 else None)):
            if steps:
                s += config.delimiter
            if not judged:
                on_trial = begin_rewrite if may_begin_early and config.lookahead else None
                waiting, undrafted = drafts.take(steps, on_trial)
                if waiting and may_begin_early and config.eager_rewrite:
                    begin_rewrite()
                judged.extend(_judge(run, s, steps, waiting))
            if not judged:
                begin_rewrite()
                step = replace(run.finish(rewrite).as_step("base"), undrafted=undrafted)
                run.done(rewrite.state)
            else:
                one = judged.popleft()
                if one.error:
                    raise one.error
                if one.found and config.rule.keeps(one.found.value, values):
                    step = one.kept()
                    if one.best == 0:  # else it begins anew
                        drafts.kept()
                    if rewrite:
                        run.discard(rewrite)
                    if one.own:
                        run.wasted.append(one.own.call)
                elif one.own:
                    step = one.rewritten(one.own)
                else:
                    head, head_tokens = _salvage(one, config)
                    if rewrite and head:
                        run.discard(rewrite)
                    if head or not rewrite:
                        writer = s.fork(1)[0]
                        writer += head
                        rewrite = run.begin(writer, "base", "rewrite", steps, head_tokens=head_tokens)
                    drafts.drop()  # while the base model writes
                    step = one.rewritten(run.finish(rewrite), head, head_tokens)
                    run.done(rewrite.state)
                if step.rejected is not None or one.best != 0:
                    drafts.drop()
                    run.wasted += [call for other in judged for call in other.all_calls]
                    judged.clear()
                values += [one.found.value] if one.found else []
            rewrite = None
            s += step.text
            steps.append(step)
            if on_step:
                on_step(step)
        drafts.drop()
        run.wasted += [call for other in judged for call in other.all_calls]
        s["trace"] = so_far(stop, *_final_answer(run, s, "base", stop, on_text))


@dataclass(frozen=True)
class _Judged:
    """A drafted step and what the verifier said of it; `found` is None where there was nothing to judge.
    `error` is why the verifier failed: it counts only if the step comes up. `own` is the base model's step
    that it was compared with."""

    versions: Versions
    best: int
    found: Judgement | None
    calls: tuple[Call, ...]
    error: Exception | None = None
    own: Written | None = None

    @property
    def all_calls(self) -> tuple[Call, ...]:
        return (*self.calls, self.own.call) if self.own else self.calls

    def kept(self) -> Step:
        one = self.versions[self.best]
        return Step(
            one.text, "draft", one.end, one.call.completion_tokens,
            self.found.value, dict(self.found.probabilities), calls=self.calls,
        )  # fmt: skip

    def rewritten(self, new: Written, head: str = "", head_tokens: int = 0) -> Step:
        value, probabilities = (
            (self.found.value, dict(self.found.probabilities)) if self.found else (None, {})
        )
        return Step(
            head + new.text, "both" if head else "base", new.end, head_tokens + new.call.completion_tokens,
            value, probabilities, self.versions[self.best].text, len(head), (*self.calls, new.call),
        )  # fmt: skip


def _judge(run: Run, s: ProgramState, steps: Sequence[Step], waiting: Sequence[Versions]) -> list[_Judged]:
    """Judge all versions of all waiting steps at once, each after the first versions of those before."""
    config, before, chain = run.config, "", list(steps)
    jobs: list[tuple[ProgramState, Written, Writing | None]] = []
    writings: list[Writing | None] = []  # of the base model's own steps, where they are wanted
    for versions in waiting:
        askable = [
            one for one in versions
            if is_askable(one.text, config.verifier)
            and run.room(s, before + one.text) >= 0  # else the answer would have no room
        ]  # fmt: skip
        own = None
        if askable and getattr(config.verifier, "wants_own_step", False):
            own = run.begin(s.fork(1)[0], "base", "rewrite", chain, lead=before)
        writings.append(own)
        for one in askable:
            state = run.own(s.fork(1)[0])
            if before:
                state += before
            jobs.append((state, one, own))
        before += versions[0].text + config.delimiter
        chain.append(versions[0].as_step("draft"))

    def work(job: tuple[ProgramState, Written, Writing | None]) -> tuple[Judgement, Call] | Exception | None:
        state, one, own = job
        after = config.delimiter if one.end == "delimiter" else ""
        try:
            text = run.finish(own).text if own else ""
            start = run.now()
            drafted = Drafted(one.text, one.call.completion_tokens, one.end, one.logprobs, after, text)
            found = judgement(config.verifier(state, drafted))
        except ContextLengthExceeded:
            return None  # the base model then writes a step that fits
        except Exception as error:
            return error
        finally:
            run.done(state)
        if "sent_at" in found.usage:
            return found, run.call("base", "score", found.usage)
        return found, Call("base", "score", 0, 0, 0, start, run.now() - start)

    if len(jobs) <= 1:
        results = [work(job) for job in jobs]
    else:
        with ThreadPoolExecutor(len(jobs)) as pool:
            try:
                results = list(pool.map(work, jobs))
            except BaseException:  # the pool waits for all at its end
                for state, _, own in jobs:
                    state.stream_executor.backend.abort(state)
                    if own:
                        run.abort(own.state)
                raise
    found = {id(one): result for (_, one, _), result in zip(jobs, results, strict=True) if result}
    judged = []
    for versions, writing in zip(waiting, writings, strict=True):
        results = {i: found[id(one)] for i, one in enumerate(versions) if id(one) in found}
        errors = [one for one in results.values() if isinstance(one, Exception)]
        fine = {i: one for i, one in results.items() if not isinstance(one, Exception)}
        best = max(fine, key=lambda i: fine[i][0].value, default=0)
        calls = [one.call for one in versions] + [call for _, call in fine.values()]
        own = None
        if writing:
            with contextlib.suppress(SpecReasonError):  # it is among the versions' errors
                own = run.finish(writing)
            run.done(writing.state)
        judged.append(
            _Judged(
                versions, best, fine[best][0] if fine else None, tuple(calls),
                errors[0] if errors else None, own,
            )
        )  # fmt: skip
    return judged


def _salvage(one: _Judged, config: SpecReasonConfig) -> tuple[str, int]:
    """What is kept of a rejected step, and how many of the base model's tokens that is."""
    if config.salvage is None or not one.found:
        return "", 0
    return good_head(one.versions[one.best].text, one.found.logprobs, config.salvage)


def good_head(text: str, logprobs: Sequence[TokenLogprob], limit: float) -> tuple[str, int]:
    """What of a step stands in whole sentences before its first token with a logprob below `limit`.

    Returns:
        The head, without white space at its end, and its number of tokens. ("", 0): none.
    """
    unlikely = next((i for i, token in enumerate(logprobs) if token.logprob < limit), None)
    if unlikely is None:
        return "", 0
    position, ends = 0, [0]
    for token in logprobs[:unlikely]:
        if not text.startswith(token.text, position):
            break  # a piece of a character that several tokens share: what follows has no known place
        position += len(token.text)
        ends.append(position)
    cuts = [match.end() for match in _SENTENCE_END.finditer(text) if match.end() <= position]
    head = text[: cuts[-1]].rstrip() if cuts else ""
    if not any(character.isalpha() for character in head):  # "1." is no sentence
        return "", 0
    return head, sum(end < len(head) for end in ends)


@sgl.function
def alone(
    s,
    question: Question,
    side: Side,
    config: SpecReasonConfig,
    on_text: OnText | None = None,
    timeout: float | None = None,
    cancel: Cancel | None = None,
):
    """One model by itself on the same prompt: the chain of thought in one request, then the answer.

    `s["trace"]` is the `Trace`; its steps are the text split at the delimiter.
    """
    endpoint = s.stream_executor.backend
    with Run(s, config, timeout, cancel, **{side: endpoint}) as run:
        run.ask(question)
        thinking = s.stream_executor.chat_template.thinking
        stops = [THINK_CLOSE] if thinking else None
        most = int(max(min(config.token_budget, run.room(s)), 1))
        whole = run.write_out("reasoning", side, "reason", on_text, max_tokens=most, stop=stops)
        *parts, last = whole.text.split(config.delimiter)
        steps = [Step(part, side, "delimiter", 0) for part in parts]
        steps.append(replace(whole, text=last).as_step(side))
        stop = "end"
        if whole.end == "length":
            stop = "budget" if most == config.token_budget else "context"
        answer, answer_call = _final_answer(run, s, side, stop, on_text)
        s["trace"] = Trace(
            question=_text(question),
            mode=side,
            draft_model=endpoint.get_model_name() if side == "draft" else None,
            base_model=endpoint.get_model_name() if side == "base" else None,
            config=config.as_dict(),
            steps=tuple(steps),
            stop=stop,
            answer=answer,
            answer_call=answer_call,
            seconds=run.now(),
            earlier=_earlier(question),
        )


def _final_answer(
    run: Run, s: ProgramState, side: Side, stop: Stop, on_text: OnText | None
) -> tuple[str, Call | None]:
    config = run.config
    if stop in ("budget", "context") and config.at_budget == "stop":
        return "", None
    thinking = s.stream_executor.chat_template.thinking
    s += f"\n{THINK_CLOSE}\n\n" if thinking else config.delimiter + ANSWER_LEAD
    stops = list(config.answer_stop) or None
    written = run.write_out("answer", side, "answer", on_text, max_tokens=config.answer_tokens, stop=stops)
    s += sgl.assistant_end()
    return written.text.strip(), written.call


def _text(question: Question) -> str:
    return question if isinstance(question, str) else question[-1]["content"]


def _check_resumable(trace: Trace, question: Question, config: SpecReasonConfig) -> None:
    if not trace.resumable:
        raise ConfigError("the trace is not one of a run that failed: there is nothing to go on with")
    if (trace.question, trace.earlier) != (_text(question), _earlier(question)):
        raise ConfigError("the trace is of another question")
    if trace.config["delimiter"] != config.delimiter:
        raise ConfigError("the trace has another delimiter between its steps")


def _earlier(question: Question) -> tuple[dict[str, str], ...]:
    return () if isinstance(question, str) else tuple(map(dict, question[:-1]))


def solve(
    question: Question,
    *,
    draft: Endpoint,
    base: Endpoint,
    config: SpecReasonConfig | None = None,
    timeout: float | None = None,
    on_step: OnStep | None = None,
    on_text: OnText | None = None,
    cancel: Cancel | None = None,
    resume: Trace | None = None,
) -> Trace:
    """Solve one problem with a draft and a base model. Where the draft model's runtime fails, the base model
    goes on alone, and the trace says so.

    Args:
        question: the problem, plain text; or a conversation that ends with it, as messages with `role`
            (`system`, `user`, `assistant`) and `content`.
        draft, base: the two runtimes.
        config: default `SpecReasonConfig()`.
        timeout: deadline of the whole run, in seconds; None leaves it to the endpoints' own.
        on_step: called with each `Step` as it is kept.
        on_text: called with "answer" and what comes of the final answer, as it comes.
        cancel: ends the run when it is called, from any thread.
        resume: the trace of a run of the same question that failed: its steps are kept, and the run goes on
            after them.

    Raises:
        ConfigError: the question is empty, the timeout is not above 0, or the trace is not this question's,
            or not one that failed.
        RequestAborted: it was cancelled.
        ServerError: the base model's runtime failed; `DeadlineExceeded`: the time is over. Requests in flight
            are aborted, also on Ctrl-C. The error's `trace` is what there was.
    """
    if resume:
        _check_resumable(resume, question, config or SpecReasonConfig())
    arguments = {"draft": draft, "on_step": on_step, "on_text": on_text, "cancel": cancel, "resume": resume}
    return _run(speculate, question, base, config, timeout, arguments)


def solve_alone(
    question: Question,
    *,
    endpoint: Endpoint,
    side: Side = "base",
    config: SpecReasonConfig | None = None,
    timeout: float | None = None,
    on_text: OnText | None = None,
    cancel: Cancel | None = None,
) -> Trace:
    """Solve one problem with one model; arguments and errors as in `solve`. `on_text` is told of the
    "reasoning" too, as it comes."""
    arguments = {"side": side, "on_text": on_text, "cancel": cancel}
    return _run(alone, question, endpoint, config, timeout, arguments)


def solve_batch(
    questions: Sequence[str],
    *,
    draft: Endpoint,
    base: Endpoint,
    config: SpecReasonConfig | None = None,
    timeout: float | None = None,
    num_threads: int = 64,
    progress_bar: bool = False,
    on_done: Callable[[int, "Trace | SpecReasonError"], None] | None = None,
) -> list["Trace | SpecReasonError"]:
    """Solve many problems at once.

    Args:
        questions: the problems.
        draft, base, config, timeout: as in `solve`; the timeout is of each problem.
        num_threads: so many at a time.
        progress_bar: draw one on standard error.
        on_done: called with a problem's position and its result as soon as it is there.

    Returns:
        For each question, in order, its trace, or the error it failed with: a problem that fails leaves the
        others alone.

    Raises:
        ConfigError: `num_threads` is below 1.
    """
    return run_batch(
        lambda one: solve(one, draft=draft, base=base, config=config, timeout=timeout),
        questions, [draft, base], num_threads, progress_bar, on_done,
    )  # fmt: skip


def solve_alone_batch(
    questions: Sequence[str],
    *,
    endpoint: Endpoint,
    side: Side = "base",
    config: SpecReasonConfig | None = None,
    timeout: float | None = None,
    num_threads: int = 64,
    progress_bar: bool = False,
    on_done: Callable[[int, "Trace | SpecReasonError"], None] | None = None,
) -> list["Trace | SpecReasonError"]:
    """Solve many problems with one model; arguments and result as in `solve_batch`."""
    return run_batch(
        lambda one: solve_alone(one, endpoint=endpoint, side=side, config=config, timeout=timeout),
        questions, [endpoint], num_threads, progress_bar, on_done,
    )  # fmt: skip


def run_batch(work, items, endpoints, num_threads, progress_bar, on_done=None) -> list:
    """`work` on each item, `num_threads` at a time; results and errors as in `solve_batch`.

    Where it is broken off, by Ctrl-C or an exception in `on_done`, the endpoints' requests are aborted.
    """
    if num_threads < 1:
        raise ConfigError(f"num_threads is at least 1, not {num_threads}")

    def one(item):
        try:
            return work(item)
        except SpecReasonError as error:
            return error

    results: list = [None] * len(items)
    pool = ThreadPoolExecutor(num_threads)
    places = {pool.submit(one, item): i for i, item in enumerate(items)}
    try:
        for future in tqdm(as_completed(places), total=len(places), disable=not progress_bar):
            results[places[future]] = future.result()
            if on_done:
                on_done(places[future], future.result())
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        begun = [future for future in places if not future.cancelled()]  # `wait` waits for these for ever
        while wait(begun, 0.1).not_done:  # a program that was between two requests sends one more
            for endpoint in endpoints:
                endpoint.abort()
        raise
    pool.shutdown()
    return results


def _run(program, question, backend, config, timeout, arguments) -> Trace:
    config = config or SpecReasonConfig()
    config.messages(question)
    if timeout is not None and not timeout > 0:
        raise ConfigError(f"the timeout is a number of seconds above 0, not {timeout}")
    state = program.run(question=question, config=config, timeout=timeout, backend=backend, **arguments)
    return state["trace"]
