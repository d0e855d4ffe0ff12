"""The README, the documentation's pages, and the snippets in them."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
AT_THE_TOP = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "RESULTS.md", "CHANGELOG.md")]
PAGES = [*AT_THE_TOP, *sorted((ROOT / "docs").rglob("*.md"))]
_BETWEEN = {"|", ";", "do", "done"}  # commands on one line


def snippets(page: Path, *kinds: str) -> Iterator[str]:
    """The code of these kinds; of the kind "" where none is named."""
    for token in MarkdownIt().parse(page.read_text(encoding="utf-8")):
        if token.type in ("fence", "code_block") and token.info in kinds:
            yield token.content


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each command, without variables that are set before it."""
    for snippet in snippets(page, "", "bash"):
        for line in snippet.replace("\\\n", " ").splitlines():
            line = re.sub(r" > \S+", "", line)
            lexer = shlex.shlex(line, posix=True, punctuation_chars="|;")
            lexer.whitespace_split = True
            words: list[str] = []
            for word in [*lexer, ";"]:
                if word not in _BETWEEN:
                    words += [word] if words or not re.match(r"\w+=", word) else []
                elif words:
                    yield words
                    words = []
