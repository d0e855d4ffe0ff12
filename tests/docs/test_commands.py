"""Each command of the documentation is one that the real parsers take."""

import functools
import importlib.util
import itertools
import json
import re
import tomllib

import pytest
import typer

from specreason_sgl.cli import models
from specreason_sgl.cli.options import Given, command
from specreason_sgl.cli.program import COMMANDS
from specreason_sgl.errors import SpecReasonError
from specreason_sgl.runtime.flags import parse_flags
from tests.docs.pages import PAGES, ROOT, commands

TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
# What nobody here can check; the pages say with which versions such commands were run.
OTHERS = {".", "cd", "echo", "export", "for", "inspect", "litellm", "lm_eval", "printf", "schemathesis"}
# A file or folder that the reader has, in the place of one that is here.
STANDS_FOR = {"trace.json": "LICENSE", "specreason-20260101-120000-42.json": "LICENSE"}


def only_parsed(function):
    """The command, with its options read and checked, and nothing done."""

    @functools.wraps(function)
    def read(**groups):
        for group in groups.values():
            if isinstance(group, Given):
                group.values()

    return command(read)


def parser():
    app, models_app = typer.Typer(), typer.Typer()
    for name, function in COMMANDS.items():
        app.command(name)(only_parsed(function))
    for name, function in {"list": models.show, "fetch": models.fetch, "path": models.path}.items():
        models_app.command(name)(only_parsed(function))
    app.add_typer(models_app, name="models")
    return typer.main.get_command(app)


SPECREASON = parser()


def check(words):
    program, *rest = words
    if program == "specreason-sgl" and not rest[0].startswith("--"):
        SPECREASON([STANDS_FOR.get(word, word) for word in rest], standalone_mode=False)
    elif program == "sglang" and rest[:3] == ["serve", "--model-type", "specreason"]:
        SPECREASON(["serve", *rest[3:]], standalone_mode=False)
    elif program == "sglang":
        parse_flags("sglang serve", rest[1:])
    elif program == "make":
        assert {word for word in rest if "=" not in word} <= TARGETS
    elif program in ("pip", "uv"):
        assert set(re.findall(r"\.\[([\w-]+)\]", " ".join(rest))) <= set(EXTRAS)
    elif program == "python" and rest[0] == "-m":
        assert rest[1] == "venv" or importlib.util.find_spec(rest[1].partition(".")[0])
    elif program == "python" or program.startswith("programs/"):
        assert (ROOT / (rest[0] if program == "python" else program)).exists()
    elif program == "curl":
        [json.loads(body) for flag, body in itertools.pairwise(rest) if flag == "-d"]
    else:
        assert program in OTHERS or program == "specreason-sgl", f"what is {program}?"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_its_commands_are_those_that_the_programs_take(page):
    for words in commands(page):
        check(words)


@pytest.mark.parametrize(
    "words",
    [
        ["specreason-sgl", "solve", "q", "--windows", "8"],
        ["specreason-sgl", "solve", "q", "--window", "all"],
        ["sglang", "serve", "--model-paths", "x"],
        ["make", "cake"],
        ["pip", "install", ".[cake]"],
        ["curl", "-d", "{"],
        ["cake"],
    ],
)
def test_a_command_that_is_none_is_found(words):
    with pytest.raises((AssertionError, ValueError, SpecReasonError, typer.BadParameter.__base__)):
        check(words)
