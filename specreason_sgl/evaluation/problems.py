"""Problems with known answers, from a JSON Lines file."""

import json
from dataclasses import dataclass
from pathlib import Path

from specreason_sgl.errors import ConfigError


@dataclass(frozen=True)
class Problem:
    """A question and its right answer."""

    id: str
    question: str
    answer: str


def load_problems(path: Path, limit: int | None = None) -> list[Problem]:
    """Read problems: a JSON object a line with `question`, `answer`, and maybe `id`.

    Raises:
        ConfigError: the file cannot be read, has no problem, or a line is not one (its number is named).
    """
    try:
        lines = Path(path).read_text().splitlines()
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
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ConfigError(
                f"{path}, line {number}: a problem is a JSON object with a question and an answer"
            ) from None
        if not isinstance(one.question, str) or not one.question.strip():
            raise ConfigError(f"{path}, line {number}: the question is empty")
        problems.append(one)
    if not problems:
        raise ConfigError(f"{path} has no problems")
    return problems[:limit]
