"""Problems with known answers: from a JSON Lines file, a model hub, or reasoning-gym."""

import hashlib
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from specreason_sgl import files
from specreason_sgl.errors import ConfigError

LETTERS = "ABCDEFGHIJ"
GENERATED = 100  # problems of a reasoning-gym task without a limit
_HUB = {  # dataset, its configuration, its split, and the names of its id, question and answer
    "aime24": ("HuggingFaceH4/aime_2024", None, "train", ("id", "problem", "answer")),
    "aime25": ("math-ai/aime25", None, "test", ("id", "problem", "answer")),
    "math500": ("HuggingFaceH4/MATH-500", None, "test", ("unique_id", "problem", "answer")),
    "gpqa-diamond": ("Idavidrein/gpqa", "gpqa_diamond", "train", ("Record ID", "Question", "Correct Answer")),
    "gsm8k": ("openai/gsm8k", "main", "test", ("", "question", "answer")),
    "gsm8k-train": ("openai/gsm8k", "main", "train", ("", "question", "answer")),
}
NAMES = (*_HUB, "rg:TASK")


@dataclass(frozen=True)
class Problem:
    """A question and its right answer.

    Attributes:
        answer: the right answer; of a multiple choice question, the letter of the right choice.
        choices: of a multiple choice question.
        score: of a problem of reasoning-gym, its scorer: gives 1 for a right answer.
    """

    id: str
    question: str
    answer: str
    choices: tuple[str, ...] = ()
    score: Callable[[str], float] | None = field(default=None, compare=False)

    @property
    def prompt(self) -> str:
        """The question, with its choices if any."""
        if not self.choices:
            return self.question
        lines = [f"({letter}) {text}" for letter, text in zip(LETTERS, self.choices, strict=False)]
        return "\n".join([self.question, "", *lines, "", "Answer with the letter of the right choice."])

    @property
    def hash(self) -> str:
        """Of the prompt's words: tells whether two problems are the same, whatever their ids."""
        return hashlib.sha256(" ".join(self.prompt.split()).encode()).hexdigest()[:16]


def load_data(
    name: str, limit: int | None = None, seed: int = 0, *, offset: int = 0, ids: Sequence[str] = ()
) -> list[Problem]:
    """The problems of a `--data`.

    Args:
        name: one of `NAMES` (`rg:` and any task of reasoning-gym), or a JSON Lines file.
        limit: at most this many.
        offset: leave out this many at the beginning.
        ids: take these only, in this order; instead of a limit and an offset.
        seed: of the generated problems, and of the order of GPQA's choices.

    Raises:
        ConfigError: there is no such data, it is unavailable, two of its problems have the same id, or none
            is left.
    """
    if name.startswith("rg:"):
        problems = _generated(name.removeprefix("rg:"), offset + (limit or GENERATED), seed)
    elif name in _HUB:
        problems = _from_hub(name, seed)
    elif Path(name).exists():
        problems = load_problems(Path(name))
    else:
        raise ConfigError(f"data must be a file or one of {', '.join(NAMES)}, got {name!r}")
    by_id: dict[str, Problem] = {}
    for problem in problems:
        if by_id.setdefault(problem.id, problem) is not problem:
            raise ConfigError(f"two problems of {name} have the id {problem.id!r}")
    if ids:
        if missing := [id for id in ids if id not in by_id]:
            raise ConfigError(
                f"ids must be of problems of {name}; it has none named {', '.join(missing)}", "ids"
            )
        return [by_id[id] for id in ids]
    if offset >= len(problems):
        raise ConfigError(
            f"offset must be below {len(problems)}, the problems of {name}; got {offset}", "offset"
        )
    return problems[offset:][:limit]


class _Row(msgspec.Struct, frozen=True):
    """A line of a file of problems."""

    question: str
    answer: str | int | float
    id: str | int | float | None = None
    choices: tuple[str | int | float, ...] | None = None

    def as_problem(self, number: int) -> Problem:
        """The problem of line `number`. Raises `ConfigError` where it cannot be asked or graded."""
        id = str(number if self.id is None else self.id)
        answer, choices = str(self.answer), tuple(map(str, self.choices or ()))
        if not self.question.strip():
            raise ConfigError("question must not be empty")
        if not choices:
            return Problem(id, self.question, answer)
        letters = tuple(LETTERS[: len(choices)])
        if len(choices) > len(LETTERS):
            raise ConfigError(f"choices must be at most {len(LETTERS)}, got {len(choices)}")
        letter = letters[choices.index(answer)] if answer in choices else answer
        if letter not in letters:
            raise ConfigError(f"answer must be one of the choices or its letter, got {answer!r}")
        return Problem(id, self.question, letter, choices)


def load_problems(path: Path, limit: int | None = None) -> list[Problem]:
    """Read problems from JSON Lines: objects with `question`, `answer`, and optionally `id` and `choices`, a
    list of texts of which the answer is one, or its letter.

    Raises:
        ConfigError: the file cannot be read, has no problems, or a line is not a problem; names the line.
    """
    problems = files.read_lines(path, _Row, "a problem", _Row.as_problem)
    if not problems:
        raise ConfigError(f"{path} has no problems")
    return problems[:limit]


def _from_hub(name: str, seed: int) -> list[Problem]:
    from specreason_sgl.runtime import hub

    dataset, part, split, names = _HUB[name]
    from huggingface_hub import constants

    if not constants.HF_HUB_OFFLINE and not hub.is_reachable():
        raise ConfigError(
            f"{name} is the dataset {dataset}, and no model hub can be reached; name a file or rg:TASK "
            "instead, or set HF_HUB_OFFLINE=1 to use an earlier download"
        )
    import datasets  # takes seconds

    try:
        rows: Iterable[dict[str, Any]] = datasets.load_dataset(dataset, part, split=split)
    except Exception as error:  # of many kinds, for gated and missing datasets among others
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(f"{name}: the dataset {dataset} cannot be loaded: {reason}") from None
    return [_of_row(name, number, row, names, seed) for number, row in enumerate(rows)]


def _of_row(name: str, number: int, row: dict[str, Any], names: tuple[str, str, str], seed: int) -> Problem:
    id, question, answer = (str(row[column]) if column else str(number) for column in names)
    id = f"{name}/{id}"
    if name in ("gsm8k", "gsm8k-train"):
        return Problem(id, question, answer.rpartition("####")[2].strip())
    if name == "gpqa-diamond":
        choices = [answer, *(row[f"Incorrect Answer {i}"] for i in (1, 2, 3))]
        random.Random(f"{seed} {id}").shuffle(choices)
        letter = LETTERS[choices.index(answer)]
        return Problem(id, question.strip(), letter, tuple(choice.strip() for choice in choices))
    return Problem(id, question, answer)


def _generated(task: str, n: int, seed: int) -> list[Problem]:
    try:
        import reasoning_gym  # takes seconds
    except ImportError as error:
        raise ConfigError(
            f"rg:{task} is generated by reasoning-gym, which is missing ({error}): pip install reasoning-gym "
            "(its dependency pycosat needs a C compiler)"
        ) from None
    try:
        dataset = reasoning_gym.create_dataset(task, size=n, seed=seed)
    except ValueError:
        raise ConfigError(f"reasoning-gym has no task {task!r}; its GALLERY.md lists them") from None
    return [_of_entry(task, number, dataset) for number in range(n)]


def _of_entry(task: str, number: int, dataset: Any) -> Problem:
    entry = dataset[number]
    answer = str(entry["answer"])

    def score(answer: str) -> float:
        return dataset.score_answer(answer, entry)

    return Problem(f"rg:{task}/{number}", entry["question"], answer, score=score)
