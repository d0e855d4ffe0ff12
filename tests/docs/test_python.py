"""The Python of the documentation runs, on scripted servers; its JSON is JSON."""

import contextlib
import json
import sys
import types

import pytest

import specreason_sgl
from specreason_sgl.runtime import launch
from tests.docs.pages import PAGES, ROOT, snippets
from tests.support.pair import chance
from tests.support.serving import serving

PYTHON = [
    pytest.param(code, id=f"{page.relative_to(ROOT)}-{number}")
    for page in PAGES
    for number, code in enumerate(snippets(page, "python"))
    if not code.startswith("--8<--")
]


def write(side, turn, most):
    step = turn.count("\n\n")
    text = "So it is \\boxed{391}." if step == 2 else f"Step {step} gives {chance(turn).randrange(99)}."
    return text, "delimiter", min(8, most)


@pytest.fixture(scope="module")
def served(pair):
    pair.start_anew(write, lambda turn: 9)
    with serving(pair, name="mini") as url:
        yield url


@pytest.mark.parametrize("code", PYTHON)
def test_it_runs(code, pair, served, monkeypatch, tmp_path, capsys):
    @contextlib.contextmanager
    def launch_pair(spec, **_):
        yield types.SimpleNamespace(draft=pair.draft_server, base=pair.base_server)

    monkeypatch.setattr(launch, "launch_pair", launch_pair)
    monkeypatch.setattr(specreason_sgl, "launch_pair", launch_pair, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trace.json").write_text(pair.solve().to_json())
    places = {
        "http://127.0.0.1:8000": served,
        "http://127.0.0.1:30000": pair.base_server.url,
        "http://127.0.0.1:30001": pair.draft_server.url,
        '"qwen3"': '"mini"',
    }
    for written, there in places.items():
        code = code.replace(written, there)
    module = types.ModuleType("snippet")
    monkeypatch.setitem(sys.modules, "snippet", module)  # dataclasses look there
    exec(compile(code, "snippet", "exec"), module.__dict__)


def test_its_json_is_json():
    for page in PAGES:
        for text in snippets(page, "json"):
            json.loads(text)
