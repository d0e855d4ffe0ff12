"""A knob is declared once, and everything else follows from the declaration."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
KNOB = """    sharpness: int = knob(
        default=5, help="How sharp a step must be.", unit="points", panel=JUDGE, ge=1, le=9
    )
"""
REPAIR = """
@settings
class Spell(Correct):
    does: ClassVar[str] = "mends spelling"
    letters: int = knob(default=2, help="At most so many letters.", places=EVERYWHERE, ge=1)

"""
PLACES = """
import json
from specreason_sgl.cli.program import main
from specreason_sgl.errors import ConfigError
from specreason_sgl.evaluation.settings import expand
from specreason_sgl.reasoning.config import SpecReasonConfig
from specreason_sgl.display.settings_page import settings_page
from specreason_sgl.serving.api import ChatRequest
from specreason_sgl.serving.parameters import Extension
from specreason_sgl.serving.refusals import api_error, invalid

def refused(work):
    try:
        work()
    except (ConfigError, SystemExit) as error:
        return error

ask = {"model": "mini", "messages": [{"role": "user", "content": "q"}]}
config = ChatRequest(**ask, specreason={"sharpness": 7}).config(SpecReasonConfig())
error = refused(lambda: ChatRequest(**ask, specreason={"sharpness": 99}).config(SpecReasonConfig()))
print(json.dumps({
    "python": str(refused(lambda: SpecReasonConfig(sharpness=0))),
    "schema": Extension.model_json_schema()["properties"]["sharpness"],
    "api": config.sharpness,
    "refusal": api_error(error).body["error"],
    "sweep": [(each.name, each.config.sharpness) for each in expand(["correct"], {"sharpness": [1, 2]})],
    "docs": [line for line in settings_page().splitlines() if "sharpness" in line],
    "trace": SpecReasonConfig().as_dict()["sharpness"],
}))
"""


def test_a_new_knob_is_one_edit(tmp_path):
    shutil.copytree(ROOT / "specreason_sgl", tmp_path / "specreason_sgl")
    config = tmp_path / "specreason_sgl" / "reasoning" / "config.py"
    before = "    lookahead: int = knob("
    assert before in config.read_text()
    config.write_text(config.read_text().replace(before, KNOB + before, 1))

    def run(*arguments):
        return subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
        )

    done = run("-c", PLACES)
    assert done.returncode == 0, done.stderr
    places = json.loads(done.stdout)
    assert places["python"] == "sharpness must be a whole number from 1 to 9, got 0"
    assert (places["schema"]["description"], places["schema"]["maximum"]) == ("How sharp a step must be.", 9)
    assert places["api"] == 7
    assert places["refusal"]["param"] == "specreason.sharpness"
    assert places["refusal"]["message"] == "specreason.sharpness must be a whole number from 1 to 9, got 99"
    assert places["sweep"] == [["correct sharpness=1", 1], ["correct sharpness=2", 2]]
    assert len(places["docs"]) == 1
    assert places["trace"] == 5

    wrong = run("-m", "specreason_sgl.cli", "solve", "q", "--sharpness", "0")
    assert wrong.stderr == "error: --sharpness must be a whole number from 1 to 9, got 0\n"
    for command in ("solve", "serve", "eval", "bench", "chat"):
        assert "--sharpness N" in run("-m", "specreason_sgl.cli", command, "--help-all").stdout


def test_a_new_repair_is_one_edit(tmp_path):
    shutil.copytree(ROOT / "specreason_sgl", tmp_path / "specreason_sgl")
    module = tmp_path / "specreason_sgl" / "reasoning" / "repair.py"
    before, names = module.read_text().split("\nREPAIRS: ")
    names = names.replace("Rewrite()}", 'Rewrite(), "spell": Spell()}')
    module.write_text(f"{before}{REPAIR}\nREPAIRS: {names}")
    declared = "from specreason_sgl.display import page; import json; print(json.dumps(page._declared()))"
    done = subprocess.run([sys.executable, "-c", declared], cwd=tmp_path, capture_output=True, check=True)
    page = json.loads(done.stdout)
    knobs = {knob["name"]: knob for knob in page["knobs"]}
    assert page["repairs"]["Spell"] == "spell"
    assert knobs["repair"]["words"] == ["correct", "rewrite", "spell"]
    assert (
        "rewrite replaces the whole step, spell mends spelling. Default: correct; " in knobs["repair"]["help"]
    )
    assert {name: knob["repairs"] for name, knob in knobs.items() if knob["repairs"]} == {
        "delta": ["correct", "spell"], "threshold": ["rewrite"], "letters": ["spell"],
    }  # fmt: skip
