"""Imports point one way: a room uses only those before it, and knows nothing of those after it."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "specreason_sgl"
ROOMS = (
    "errors", "files", "lazy", "processes", "runtime", "lang", "reasoning", "evaluation", "display", "bench",
    "serving", "pair", "verifiers", "cli",
)  # fmt: skip
UNRELATED = {("lang", "runtime")}  # the language does not know how servers are started


def imported_rooms(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "specreason_sgl":
            parts = node.module.split(".")
            names = [alias.name for alias in node.names] if len(parts) == 1 else [parts[1]]
            yield from (name for name in names if name in ROOMS)


@pytest.mark.parametrize("own", ROOMS)
def test_a_room_uses_only_those_before_it(own):
    files = [
        path
        for path in PACKAGE.rglob("*.py")
        if path.relative_to(PACKAGE).parts[0].removesuffix(".py") == own
    ]
    assert files
    for path in files:
        for used in imported_rooms(path):
            assert ROOMS.index(used) <= ROOMS.index(own), path
            assert (own, used) not in UNRELATED, path
