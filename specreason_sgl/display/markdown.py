"""Tables in Markdown."""

from collections.abc import Iterable, Sequence


def markdown_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; a vertical bar in a cell is escaped."""
    lines = [titles, ["---"] * len(titles), *rows]
    escaped = ([text.replace("|", r"\|") for text in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)
