"""`sglang serve --model-type specreason`: SGLang's own command starts this package's server."""

import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest
import typer
from sglang.cli import serve_backends
from sglang.cli.serve_backends import ServeRequest

from specreason_sgl import cli
from specreason_sgl.cli import program, sglang_serve
from specreason_sgl.errors import ConfigError, ServerError

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


@pytest.fixture
def served(monkeypatch):
    """What the `serve` command is given; `served.error` is what it raises."""
    app = typer.Typer()

    class Served(list):
        error = None

    commands = Served()

    @app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
    def serve(context: typer.Context):
        """Our help."""
        commands.append(context.args)
        if commands.error:
            raise commands.error

    @app.command()
    def other():
        pass

    monkeypatch.setattr(program, "app", app)
    monkeypatch.setattr("signal.signal", lambda *_: None)  # main's handler is not for this process
    return commands


def run(*argv):
    sglang_serve.create().run(ServeRequest(argv=argv, model_path=None))


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], []),
        (["--pair", "mini", "--port", "1"], ["--pair", "mini", "--port", "1"]),
        (["--draft", "a", "--base", "b"], ["--draft", "a", "--base", "b"]),
        (["--model-path", "b", "--draft", "a"], ["--base", "b", "--draft", "a"]),
        (["--model", "b", "--draft=a"], ["--base", "b", "--draft=a"]),
        (["--model-path=b"], ["--base=b"]),
        (["--model=b=c"], ["--base=b=c"]),
        (["--base-args", "--x 1", "--base-url=u"], ["--base-args", "--x 1", "--base-url=u"]),
    ],
)
def test_sglangs_model_is_the_base_and_the_rest_is_passed_on(served, argv, expected):
    run(*argv)
    assert served == [expected]


@pytest.mark.parametrize("argv", [["--model-path", "b", "--base=c"], ["--model=b", "--base", "b"]])
def test_two_base_models_are_one_line_on_standard_error(served, capsys, argv):
    with pytest.raises(SystemExit) as end:
        run(*argv)
    assert end.value.code == 2
    said = "error: the base model is named twice: give the model or --base, not both\n"
    assert capsys.readouterr().err == said
    assert served == []


@pytest.mark.parametrize(("error", "code"), [(ConfigError("wrong"), 2), (ServerError("gone"), 1)])
def test_a_failure_ends_the_process_with_its_code(served, error, code):
    served.error = error
    with pytest.raises(SystemExit) as end:
        run("--pair", "mini")
    assert end.value.code == code


def test_it_needs_no_model_path_and_takes_no_model_by_itself():
    made = sglang_serve.create()
    assert (made.requires_model_path, made.detect) == (False, None)
    assert made.api_version == serve_backends.SERVE_BACKEND_API_VERSION


def test_the_end_and_the_help_return_to_sglang(served, capsys):
    run()
    run("--help")
    assert served == [[]]
    assert "Our help." in capsys.readouterr().out


def test_main_takes_a_command_line(served, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["specreason-sgl", "serve", "a"])
    for argv, passed in ((None, ["a"]), (("serve",), [])):
        with pytest.raises(SystemExit):
            cli.main(argv)
        assert served.pop() == passed


def test_sglang_finds_it_by_the_entry_point_of_this_package():
    group = tomllib.loads(PYPROJECT.read_text())["project"]["entry-points"]
    assert group[serve_backends.SERVE_BACKENDS_GROUP] == {
        "specreason": "specreason_sgl.cli.sglang_serve:create"
    }


def test_sglangs_own_command_comes_here():
    served = "sglang serve big --draft small --model-type=specreason"
    helped = "sglang serve --model-type specreason --help"
    program = f"""
        import contextlib, sys, typer
        from importlib.metadata import EntryPoint
        from sglang.cli import main, serve_backends
        from specreason_sgl.cli import program
        plugin = EntryPoint("specreason", "specreason_sgl.cli.sglang_serve:create", "sglang.serve_backends")
        serve_backends.entry_points = lambda group: [plugin]
        program.app = typer.Typer()
        @program.app.command(context_settings={{"allow_extra_args": True, "ignore_unknown_options": True}})
        def serve(context: typer.Context):
            "Our help."
            print("served", context.args)
        program.app.command()(lambda: None)
        for sys.argv in {[served.split(), helped.split()]!r}:
            with contextlib.suppress(SystemExit):
                main.main()
            print("----")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said_served, said_help, _ = done.stdout.split("----")
    assert "served ['--base', 'big', '--draft', 'small']" in said_served
    assert "Our help." in said_help
    assert ("cookbook" in said_served, "cookbook" in said_help) == (False, True)
