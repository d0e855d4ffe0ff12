"""Fixtures that need no runtime: small real tokenizers, a scripted server, the command line."""

import io
import signal
import sys
from collections import Counter
from typing import NamedTuple

import pytest

from tests.support.scripted import ScriptedServer
from tests.support.tokenizers import SPECIAL_TOKENS, make_tokenizer


def pytest_collection_modifyitems(items):
    """A notebook starts a pair of its own: before those of `engine` are there and hold their memory."""
    for item in items:
        if item.path.suffix == ".ipynb":
            item.add_marker(pytest.mark.engine)
    items.sort(key=lambda item: item.path.suffix != ".ipynb")


def pytest_terminal_summary(terminalreporter):
    """Say at the end which tests were skipped, and how to run them: the reasons of the skips say how."""
    reasons = Counter(
        report.longrepr[2].removeprefix("Skipped: ") for report in terminalreporter.stats.get("skipped", [])
    )
    if reasons:
        terminalreporter.section("skipped, and how to run them")
    for reason, count in reasons.most_common():
        terminalreporter.line(f"{count} test{'s' if count > 1 else ''}: {reason}")


@pytest.fixture(params=sorted(SPECIAL_TOKENS))
def tokenizer(request):
    return make_tokenizer(request.param)


@pytest.fixture(scope="session")
def chatml_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chatml")
    make_tokenizer("qwen2.5").save_pretrained(folder)
    return str(folder)


@pytest.fixture
def scripted(chatml_folder):
    """A server that speaks SGLang's HTTP and does what the test tells it to."""
    with ScriptedServer(chatml_folder) as server:
        yield server


@pytest.fixture(scope="module")
def pair(chatml_folder):
    """A scripted draft and base model for a module; a test calls `start_anew` first."""
    from tests.support.pair import paired

    with paired(chatml_folder, chatml_folder) as pair:
        yield pair


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run_command(capsys, monkeypatch):
    """The command line in this process."""

    def work(*arguments: str, input: str = "") -> Done:
        monkeypatch.setattr(sys, "stdin", io.StringIO(input))
        monkeypatch.setattr(signal, "signal", lambda *_: None)  # SIGTERM stays pytest's
        from specreason_sgl.cli import main

        with pytest.raises(SystemExit) as ended:
            main(arguments)
        return Done(ended.value.code or 0, *capsys.readouterr())

    return work
