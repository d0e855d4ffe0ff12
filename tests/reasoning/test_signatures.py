"""What `help`, `inspect` and editors show of the public interface."""

import inspect
import pydoc
from pathlib import Path

import jedi
import pytest

import specreason_sgl
from specreason_sgl import SpecReason, alone, solve, solve_alone, solve_batch, speculate

PROJECT = jedi.Project(Path(__file__).parents[2])
ENVIRONMENT = jedi.InterpreterEnvironment()
SPECULATE = ("question", "draft", "config", "run")
ALONE = ("question", "side", "config", "run")
SOLVE_ALONE = ("question", "endpoint", "side", "config", "timeout", "on_text", "cancel")
SOLVE = (
    "question", "draft", "base", "config", "timeout", "on_step", "on_text", "on_draft", "cancel", "resume",
)  # fmt: skip
SOLVE_BATCH = (
    "questions", "draft", "base", "config", "timeout", "concurrency", "progress_bar", "on_done", "cancel",
    "processes",
)  # fmt: skip

SIGNATURES = {
    "solve": (solve, SOLVE),
    "solve_alone": (solve_alone, SOLVE_ALONE),
    "solve_batch": (solve_batch, SOLVE_BATCH),
    "speculate": (speculate, SPECULATE),
    "alone": (alone, ALONE),
}


def editor(code: str) -> jedi.Script:
    return jedi.Script(code, project=PROJECT, environment=ENVIRONMENT)


@pytest.mark.parametrize("name", SIGNATURES)
def test_the_arguments_are_named_at_runtime_and_in_an_editor(name):
    function, names = SIGNATURES[name]
    assert tuple(inspect.signature(function).parameters) == names
    (signature,) = editor(f"from specreason_sgl import {name}\n{name}(").get_signatures()
    assert tuple(param.name for param in signature.params) == names


def test_the_arguments_of_a_pair_s_solve_are_listed():
    code = "from specreason_sgl import SpecReason\nwith SpecReason('mini') as pair:\n    pair.solve("
    (signature,) = editor(code).get_signatures()
    at_runtime = list(inspect.signature(SpecReason.solve).parameters)
    assert at_runtime[:3] == ["self", "question", "config"]
    assert [param.name for param in signature.params] == at_runtime[1:]


@pytest.mark.parametrize(("program", "names"), [(speculate, SPECULATE), (alone, ALONE)])
def test_help_shows_a_program_s_arguments_and_documentation(program, names):
    text = pydoc.render_doc(program, renderer=pydoc.plaintext)
    assert all(f"{name}: " in text for name in names)
    assert "Solve a problem" in text
    assert "s: 'ProgramState'" not in text


def test_an_editor_knows_what_a_program_can_do():
    completions = editor("from specreason_sgl import speculate\nspeculate.").complete()
    assert {"run", "run_batch", "bind"} <= {completion.name for completion in completions}


def test_an_editor_completes_each_public_name():
    completions = editor("import specreason_sgl\nspecreason_sgl.").complete()
    assert set(specreason_sgl.__all__) <= {completion.name for completion in completions}


@pytest.mark.parametrize("name", specreason_sgl.__all__)
def test_each_public_name_resolves_and_an_editor_finds_its_definition(name):
    assert getattr(specreason_sgl, name) is not None
    assert name in dir(specreason_sgl)
    (definition,) = editor(f"from specreason_sgl import {name}\n{name}").goto(follow_imports=True)
    assert definition.type != "module"
    assert definition.module_name.startswith("specreason_sgl.")
