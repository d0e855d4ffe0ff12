"""Settings on problems, graded; each finished sample is a line of a file, so that a run that was broken off
goes on where it was."""

import dataclasses
import fcntl
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from specreason_sgl.errors import ConfigError, ServerError, SpecReasonError
from specreason_sgl.evaluation.grading import grade
from specreason_sgl.evaluation.problems import Problem
from specreason_sgl.evaluation.settings import ALONE, Setting
from specreason_sgl.reasoning.trace import Trace, model_name

KIND = "specreason-sgl eval 1"


@dataclass(frozen=True)
class Sample:
    """One problem, solved once with one setting.

    Attributes:
        problem: its id; `number`: which of its samples, from 0.
        setting: its name.
        expected: the right answer.
        right: whether the answer is; None where the sample failed.
        error: why it failed, or None. A failed sample is neither right nor wrong.
        trace: what happened; None where no answer came.
    """

    problem: str
    number: int
    setting: str
    expected: str
    right: bool | None
    error: str | None
    trace: Trace | None

    @property
    def key(self) -> tuple[str, int, str]:
        return self.problem, self.number, self.setting

    def to_json(self) -> str:
        """One line of JSON."""
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        plain["trace"] = dataclasses.asdict(self.trace) if self.trace else None
        return json.dumps(plain, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> "Sample":
        """Read what `to_json` wrote; ValueError, KeyError, TypeError or ConfigError where it is not that."""
        data = json.loads(text)
        trace = data["trace"] and Trace.from_json(json.dumps(data["trace"]))
        return cls(**{**data, "trace": trace})


def head_of(
    problems: Sequence[Problem],
    settings: Sequence[Setting],
    *,
    data: str,
    draft_model: str,
    base_model: str,
    samples: int,
    concurrency: int,
    seed: int,
) -> dict[str, Any]:
    """What a run's file begins with: all that its samples depend on."""
    texts = [(problem.id, problem.prompt, problem.answer) for problem in problems]
    return {
        "kind": KIND,
        "data": data,
        "problems": len(problems),
        "problems_sha256": hashlib.sha256(json.dumps(texts).encode()).hexdigest(),
        "draft_model": draft_model,
        "base_model": base_model,
        "samples": samples,
        "concurrency": concurrency,
        "seed": seed,
        "settings": {
            setting.name: {"mode": setting.mode, **setting.config.as_dict()} for setting in settings
        },
    }


class Record:
    """A run's file, open to be written on; only one process can at a time.

    `done` has the samples that are in it by their key. A last line that was cut off is dropped.

    Raises:
        ConfigError: it is no file of an evaluation, or one of another, or another process writes to it.
    """

    def __init__(self, path: Path, head: dict[str, Any]):
        self.done: dict[tuple[str, int, str], Sample] = {}
        try:
            self._file = open(path, "a+b")  # noqa: SIM115
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"another evaluation is writing to {path}") from None
        except OSError as error:
            raise ConfigError(f"{path} cannot be written: {error.strerror}") from None
        line = json.dumps(head, ensure_ascii=False).encode() + b"\n"
        self._file.seek(0)
        content = self._file.read()
        if line.startswith(content):  # new, or cut off in its first line
            self._file.truncate(0)
            self._write(line)
            return
        written, samples = _read(path, content)
        if other := [name for name in head if written.get(name) != head[name]]:
            raise ConfigError(
                f"{path} is of an evaluation with other settings ({', '.join(other)}); name another file, "
                "or remove it"
            )
        self._file.truncate(content.rindex(b"\n") + 1)
        self.done = {sample.key: sample for sample in samples}

    def add(self, sample: Sample) -> None:
        self._write(sample.to_json().encode() + b"\n")
        self.done[sample.key] = sample

    def _write(self, line: bytes) -> None:
        self._file.write(line)
        self._file.flush()

    def __enter__(self) -> "Record":
        return self

    def __exit__(self, *_) -> None:
        self._file.close()


def read_run(path: Path) -> tuple[dict[str, Any], list[Sample]]:
    """A run's head and its samples, of those that were tried again the last.

    Raises:
        ConfigError: the file cannot be read, or is no evaluation's.
    """
    try:
        head, samples = _read(path, Path(path).read_bytes())
    except OSError as error:
        raise ConfigError(f"the run {path} cannot be read: {error.strerror}") from None
    return head, list({sample.key: sample for sample in samples}.values())


def _read(path: Path, content: bytes) -> tuple[dict[str, Any], list[Sample]]:
    lines = content.split(b"\n")[:-1]  # after the last line end there is nothing, or a line that was cut off
    number = 1
    try:
        head = json.loads(lines[0])
        if head["kind"] != KIND:
            raise ConfigError("of another kind")
        samples = []
        for number, line in enumerate(lines[1:], 2):  # noqa: B007
            samples.append(Sample.from_json(line))
        return head, samples
    except (ValueError, KeyError, TypeError, IndexError, ConfigError) as error:
        raise ConfigError(f"{path}, line {number}: this is no file of an evaluation ({error})") from None


def evaluate(
    problems: Sequence[Problem],
    settings: Sequence[Setting],
    record: Record,
    *,
    draft: Any,
    base: Any,
    reward: Any = None,
    samples: int = 1,
    concurrency: int = 1,
    timeout: float | None = None,
    retry_failed: bool = False,
    progress_bar: bool = False,
) -> list[Sample]:
    """Solve each problem `samples` times with each setting, and put what is not in the record there.

    One at a time, the settings take turns on each problem, from empty caches, so that a run that is cut short
    has the same problems of each. More at a time, one setting comes after the other, so that their times are
    not of each other's load. A sample that fails is recorded as failed.

    Args:
        problems, settings: in this order.
        record: gets each sample when it is finished.
        draft, base, reward: the runtimes (`Endpoint`). Their caches are emptied.
        samples: of each problem with each setting.
        concurrency: samples at a time.
        timeout: of each, in seconds.
        retry_failed: also do again what is in the record as failed.
        progress_bar: draw one on standard error.

    Raises:
        ServerError: a runtime failed between two samples. What was finished is in the record.
    """
    from specreason_sgl.reasoning.batch import run_batch
    from specreason_sgl.reasoning.solve import solve, solve_alone

    def finished(key: tuple[str, int, str]) -> bool:
        return key in record.done and not (retry_failed and record.done[key].error)

    def work(task: tuple[Problem, int, Setting]) -> Trace:
        problem, _, setting = task
        common = {"config": setting.config, "timeout": timeout}
        if setting.mode in ALONE:
            endpoint = base if setting.mode == "base" else draft
            return solve_alone(problem.prompt, endpoint=endpoint, side=setting.mode, **common)
        return solve(problem.prompt, draft=draft, base=base, **common)

    tasks = [(p, number, s) for number in range(samples) for p in problems for s in settings]
    wanted = [(p.id, number, s.name) for p, number, s in tasks]
    todo = [task for task, key in zip(tasks, wanted, strict=True) if not finished(key)]
    if concurrency == 1:
        groups = [[task] for task in todo]
    else:
        groups = [[task for task in todo if task[2] is setting] for setting in settings]
    endpoints = list(filter(None, (draft, base, reward)))
    with tqdm(total=len(tasks), initial=len(tasks) - len(todo), disable=not progress_bar) as bar:

        def keep(task: tuple[Problem, int, Setting], result: Trace | SpecReasonError) -> None:
            problem, number, setting = task
            trace, error, right = (result, None, None) if isinstance(result, Trace) else (None, result, None)
            if trace and (error := _draft_failure(trace)) is None:
                try:
                    right = grade(problem, trace.answer)
                except SpecReasonError as failure:
                    error = failure
            why = f"{type(error).__name__}: {error}" if error else None
            record.add(Sample(problem.id, number, setting.name, problem.answer, right, why, trace))
            bar.set_postfix_str(_so_far(record), refresh=False)
            bar.update()

        for group in filter(None, groups):
            for endpoint in endpoints:
                endpoint.flush_cache()
            run_batch(work, group, endpoints, concurrency, False, lambda i, r, group=group: keep(group[i], r))
    return [record.done[key] for key in wanted]


def run_evaluation(
    problems: Sequence[Problem],
    settings: Sequence[Setting],
    out: Path,
    *,
    draft: Any,
    base: Any,
    data: str = "",
    samples: int = 1,
    concurrency: int = 1,
    seed: int = 0,
    **options: Any,
) -> list[Sample]:
    """`evaluate`, with its record in a file; the same call goes on where it was.

    Args:
        problems, settings, draft, base, samples, concurrency: as in `evaluate`, and so are further options.
        out: the file, for `Report.read`.
        data, seed: where the problems come from; the file says so.

    Raises:
        ConfigError: the file is of other problems or settings, or cannot be written.
        ServerError: as in `evaluate`.
    """
    head = head_of(
        problems,
        settings,
        data=data,
        draft_model=model_name(draft.get_model_name()),
        base_model=model_name(base.get_model_name()),
        samples=samples,
        concurrency=concurrency,
        seed=seed,
    )
    options = {"draft": draft, "base": base, "samples": samples, "concurrency": concurrency, **options}
    with Record(out, head) as record:
        return evaluate(problems, settings, record, **options)


def _draft_failure(trace: Trace) -> ServerError | None:
    """What the run did without: it has an answer, but not one of the two models together."""
    from specreason_sgl.reasoning.ahead import FAILED

    reasons = [step.undrafted for step in trace.steps if step.undrafted and FAILED in step.undrafted]
    return ServerError(reasons[0]) if reasons else None


def _so_far(record: Record) -> str:
    """Accuracy and speed, for the bar."""
    graded = [sample for sample in record.done.values() if sample.error is None]
    failed = len(record.done) - len(graded)
    text = f"{failed} failed" if failed else ""
    if graded:
        seconds = sum(sample.trace.seconds for sample in graded)
        speed = sum(sample.trace.tokens for sample in graded) / seconds if seconds else 0.0
        right = sum(sample.right for sample in graded) / len(graded)
        text = f"{right:.0%} right, {speed:.1f} tokens/s {text}"
    return text.strip()
