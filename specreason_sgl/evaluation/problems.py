"""Problems with known answers: from a JSON Lines file, a model hub, or reasoning-gym."""

import json
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from specreason_sgl.errors import ConfigError

LETTERS = "ABCDEFGHIJ"
GENERATED = 100  # problems of a reasoning-gym task, where no limit is given
_HUB = {  # dataset, its configuration, its split, and the names of its id, question and answer
    "aime24": ("HuggingFaceH4/aime_2024", None, "train", ("id", "problem", "answer")),
    "aime25": ("math-ai/aime25", None, "test", ("id", "problem", "answer")),
    "math500": ("HuggingFaceH4/MATH-500", None, "test", ("unique_id", "problem", "answer")),
    "gpqa-diamond": ("Idavidrein/gpqa", "gpqa_diamond", "train", ("Record ID", "Question", "Correct Answer")),
    "gsm8k": ("openai/gsm8k", "main", "test", ("", "question", "answer")),
}
NAMES = (*_HUB, "rg:TASK")


@dataclass(frozen=True)
class Problem:
    """A question and its right answer.

    Attributes:
        choices: of a multiple choice question; the answer is the letter of one.
        score: reasoning-gym's own scorer, where it made the problem: 1 for a right answer.
    """

    id: str
    question: str
    answer: str
    choices: tuple[str, ...] = ()
    score: Callable[[str], float] | None = field(default=None, compare=False)

    @property
    def prompt(self) -> str:
        """The question, and the choices where there are some."""
        if not self.choices:
            return self.question
        lines = [f"({letter}) {text}" for letter, text in zip(LETTERS, self.choices, strict=False)]
        return "\n".join([self.question, "", *lines, "", "Answer with the letter of the right choice."])


def load_data(name: str, limit: int | None = None, seed: int = 0) -> list[Problem]:
    """The problems of a `--data`.

    Args:
        name: one of `NAMES` (`rg:` and any task of reasoning-gym), or a JSON Lines file.
        limit: so many, from the first.
        seed: of the generated problems, and of the order of GPQA's choices.

    Raises:
        ConfigError: there is no such data, it cannot be had, or two of its problems have the same id.
    """
    if name.startswith("rg:"):
        problems = _generated(name.removeprefix("rg:"), limit or GENERATED, seed)
    elif name in _HUB:
        problems = _from_hub(name, limit, seed)
    elif Path(name).exists():
        problems = load_problems(Path(name), limit)
    else:
        raise ConfigError(f"there is no file {name!r}; besides files there are {', '.join(NAMES)}")
    ids: set[str] = set()
    for one in problems:
        if one.id in ids:
            raise ConfigError(f"two problems of {name} have the id {one.id!r}")
        ids.add(one.id)
    return problems


def load_problems(path: Path, limit: int | None = None) -> list[Problem]:
    """Read problems: a JSON object a line with `question`, `answer`, and maybe `id` and `choices`, a list
    of texts of which the answer is one, or its letter.

    Raises:
        ConfigError: the file cannot be read, has no problem, or a line is not one (its number is named).
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")  # JSON may hold other line ends of Unicode
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"the problems {path} cannot be read: {getattr(error, 'strerror', error)}"
        ) from None
    problems = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            data = json.loads(line)
            one = Problem(str(data.get("id", number)), data["question"], str(data["answer"]))
            choices = tuple(map(str, data.get("choices") or ()))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ConfigError(
                f"{path}, line {number}: a problem is a JSON object with a question and an answer"
            ) from None
        if not isinstance(one.question, str) or not one.question.strip():
            raise ConfigError(f"{path}, line {number}: the question is empty")
        if choices:
            letters = LETTERS[: len(choices)]
            letter = letters[choices.index(one.answer)] if one.answer in choices else one.answer
            if letter not in tuple(letters) or len(choices) > len(LETTERS):
                raise ConfigError(f"{path}, line {number}: the answer is none of the choices")
            one = Problem(one.id, one.question, letter, choices)
        problems.append(one)
    if not problems:
        raise ConfigError(f"{path} has no problems")
    return problems[:limit]


def _from_hub(name: str, limit: int | None, seed: int) -> list[Problem]:
    from specreason_sgl.runtime.models import hub_reachable

    dataset, part, split, names = _HUB[name]
    from huggingface_hub import constants

    if not constants.HF_HUB_OFFLINE and not hub_reachable():
        raise ConfigError(
            f"{name} is the dataset {dataset}, and no model hub can be reached; name a file or rg:TASK "
            "instead, or set HF_HUB_OFFLINE=1 to take what was downloaded before"
        )
    import datasets  # seconds

    try:
        rows: Iterable[dict[str, Any]] = datasets.load_dataset(dataset, part, split=split)
    except Exception as error:  # of many kinds; gated and missing ones among them
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(f"{name}: the dataset {dataset} cannot be loaded: {reason}") from None
    problems = [_of_row(name, number, row, names, seed) for number, row in enumerate(rows)]
    return problems[:limit]


def _of_row(name: str, number: int, row: dict[str, Any], names: tuple[str, str, str], seed: int) -> Problem:
    id, question, answer = (row[one] if one else number for one in names)
    id = f"{name}/{id}"
    if name == "gsm8k":
        return Problem(id, question, answer.rpartition("####")[2].strip())
    if name == "gpqa-diamond":
        choices = [answer, *(row[f"Incorrect Answer {i}"] for i in (1, 2, 3))]
        random.Random(f"{seed} {id}").shuffle(choices)
        letter = LETTERS[choices.index(answer)]
        return Problem(id, question.strip(), letter, tuple(one.strip() for one in choices))
    return Problem(id, question, str(answer))


def _generated(task: str, n: int, seed: int) -> list[Problem]:
    try:
        import reasoning_gym  # seconds
    except ImportError as error:
        raise ConfigError(
            f"rg:{task} is generated by reasoning-gym, which is missing ({error}): pip install reasoning-gym "
            "(a part of it, pycosat, needs a C compiler)"
        ) from None
    try:
        made = reasoning_gym.create_dataset(task, size=n, seed=seed)
    except ValueError:
        raise ConfigError(f"reasoning-gym has no task {task!r}; they are listed in its GALLERY.md") from None
    return [_of_entry(task, number, made) for number in range(n)]


def _of_entry(task: str, number: int, made: Any) -> Problem:
    entry = made[number]
    answer = str(entry["answer"])

    def score(answer: str) -> float:
        return made.score_answer(answer, entry)

    return Problem(f"rg:{task}/{number}", entry["question"], answer, score=score)
