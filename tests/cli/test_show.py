"""`specreason-sgl show`: saved traces in the terminal."""

import pytest

from specreason_sgl.display.page import as_html
from tests.support.traces import make_alone, make_corrected, make_trace


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "trace.jsonl"
    file.write_text(f"{make_trace().to_json()}\n{make_alone().to_json()}\n", encoding="utf-8")
    return file


def test_show_prints_the_traces_of_all_files(file, run_command):
    done = run_command("show", str(file), str(file))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("draft  score 8, kept") == 2
    assert "base alone took 1.50 times as long" in done.stdout
    assert max(map(len, done.stdout.splitlines())) < 200


def test_show_marks_regrets_on_demand(tmp_path, run_command):
    file = tmp_path / "corrected.json"
    file.write_text(make_corrected().to_json(), encoding="utf-8")
    assert "=[- <i>&amp;-]{+ 0+}.75 hours." in run_command("show", str(file)).stdout
    assert "{~ minutes~4}" in run_command("show", str(file), "--regret").stdout


def test_show_writes_a_page_and_says_where(file, tmp_path, run_command):
    page = tmp_path / "page.html"
    done = run_command("show", str(file), "--html", str(page))
    assert (done.returncode, done.stdout, done.stderr) == (0, f"written: {page}\n", "")
    assert page.read_text(encoding="utf-8") == as_html([make_trace(), make_alone()])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "Missing argument"),
        (["missing.json"], "the trace missing.json cannot be read: No such file"),
        (["tests"], "the trace tests cannot be read: Is a directory"),
        (["LICENSE"], "LICENSE, line 2: this is not a trace of specreason-sgl"),
        (["{file}", "--html", "no/such/folder.html"], "there is no folder no/such to write to"),
        (["{file}", "--regret", "--html", "{file}.html"], "--regret shades text in the terminal"),
        (["{file}", "--html", "tests"], "tests cannot be written: Is a directory"),
        (["{file}", "LICENSE", "--html", "{file}.html"], "LICENSE, line 2: this is not a trace"),
    ],
)
def test_wrong_input_is_one_line_on_standard_error(file, arguments, says, run_command):
    done = run_command("show", *(argument.format(file=file) for argument in arguments))
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not file.with_name("trace.jsonl.html").exists()
