"""The notebooks: what is stored in them, and their code on scripted servers. On real runtimes they
are run by `make notebooks`, and the first one by the whole test run (`conftest.py`)."""

import ast
import contextlib
import re
import types
from pathlib import Path

import nbformat
import psutil
import pytest
import typer

from specreason_sgl.cli import app
from specreason_sgl.runtime import launch
from tests.support.pair import chance
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
every = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path):
    return nbformat.read(path, nbformat.NO_CONVERT)


def code_cells(path):
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def sources(path):
    return "\n".join(cell.source for cell in read(path).cells)


def expected_outputs(source) -> set[str]:
    """The kinds of output that a cell must have: its last value, and what it prints."""
    *_, last = ast.parse(source).body
    value = ast.unparse(last) if isinstance(last, ast.Expr) else ""
    kinds = {"stream"} if "print(" in source else set()
    return (
        kinds
        if not value or value.startswith("print(") or value.endswith(".close()")
        else kinds | {"execute_result"}
    )


def test_there_are_three():
    assert [path.stem[:2] for path in NOTEBOOKS] == ["01", "02", "03"]


@every
def test_it_is_valid_and_was_run_from_top_to_bottom_without_an_error(path):
    nbformat.validate(read(path))
    cells = code_cells(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        kinds = {output.output_type for output in cell.outputs}
        assert "error" not in kinds
        assert kinds >= expected_outputs(cell.source), cell.source


def test_every_picture_is_stored_in_its_notebook():
    drawing = [
        (path.stem, cell)
        for path in NOTEBOOKS
        for cell in code_cells(path)
        if re.match(r"(pictures|judges_view)\.|curve$", cell.source.splitlines()[-1])
    ]
    assert {name[:2] for name, _ in drawing} == {"01", "02"}
    for _, cell in drawing:
        assert any("image/png" in output.get("data", {}) for output in cell.outputs), cell.source


@every
def test_nothing_in_it_names_a_folder_of_the_machine_it_ran_on(path):
    assert not re.findall(
        r"(?<![\w.])/(?:root|home|tmp|Users|var)/[^\s\"']*", path.read_text(encoding="utf-8")
    )


@every
def test_a_line_that_was_written_over_is_stored_as_it_was_at_last(path):
    texts = [output.get("text", "") for cell in code_cells(path) for output in cell.outputs]
    assert not [text for text in texts if "\r" in text.strip()]


@every
def test_the_commands_in_it_exist_with_their_options(path):
    commands = typer.main.get_command(app).commands
    for name, rest in re.findall(r"specreason-sgl ([a-z]+)([^\n`]*)", sources(path)):
        known = {option for parameter in commands[name].params for option in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", rest)) <= known
    for program in re.findall(r"programs/\w+\.py", sources(path)):
        assert (ROOT / program).exists()


def write(side, turn, most):
    """Four steps, the last with the answer."""
    step = turn.count("\n\n")
    text = "So it is \\boxed{72}." if step == 3 else f"Step {step} costs $ {chance(turn).randrange(99)}."
    return text, "delimiter", min(8, most)


@every
def test_its_code_runs(path, pair, monkeypatch):
    from IPython.core.interactiveshell import InteractiveShell

    pair.start_anew(write, lambda turn: chance(turn).randrange(10))
    ended = []

    @contextlib.contextmanager
    def launch_pair(spec, *, status, progress):
        status("waiting for the draft and base server, 1 s")
        progress("download", 1, 2)
        yield types.SimpleNamespace(draft=pair.draft_server, base=pair.base_server)
        ended.append(spec.name)

    monkeypatch.setattr(launch, "launch_pair", launch_pair)
    monkeypatch.chdir(path.parent)
    shell = InteractiveShell()
    for cell in code_cells(path):
        shell.run_cell(cell.source).raise_error()
    assert ended == ["mini"] * ("SpecReason(" in "".join(cell.source for cell in code_cells(path)))


FAILS = """
import sys
from specreason_sgl.runtime.server import Server, ServerSpec
Server.command = property(lambda self: [sys.executable, "-c", "import time; time.sleep(600)"])
print(Server(ServerSpec("draft", "model")).pid)
raise ValueError
"""


def test_servers_end_with_the_kernel_of_a_notebook_that_failed(tmp_path, monkeypatch):
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    monkeypatch.setenv("SPECREASON_SGL_CACHE", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    cell = nbformat.v4.new_code_cell(FAILS)
    with pytest.raises(CellExecutionError, match="ValueError"):
        NotebookClient(nbformat.v4.new_notebook(cells=[cell])).execute()
    supervisor = int(cell.outputs[0].text)
    wait_until(lambda: not psutil.pid_exists(supervisor))
