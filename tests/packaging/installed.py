"""What `make dist` built, and the wheel in an environment without SGLang; run by that target alone.

It expects `dist/` and the environment `build/reader`: the wheel without its dependencies, and the dependency
group `reader` of pyproject.toml.
"""

import json
import subprocess
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
READER = ROOT / "build/reader/bin"
MAKE_FILES = f"""
import sys
from pathlib import Path
sys.path.append({str(ROOT)!r})  # for `tests`; the package is the installed one
from tests.support import evaluation_files, traces
Path("trace.json").write_text(traces.make_corrected().to_json())
evaluation_files.write_run(Path("run.jsonl"))
"""
GIVES_SGLANG = "is not installed; SGLang and all that runs come with: pip install specreason-sgl"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder outside the repository with a trace and a run of `eval`."""
    folder = tmp_path_factory.mktemp("files")
    subprocess.run([READER / "python", "-c", MAKE_FILES], cwd=folder, check=True)
    return folder


@pytest.fixture
def run(files):
    def work(program, *arguments, input=""):
        return subprocess.run(
            [READER / program, *arguments], cwd=files, input=input, capture_output=True, text=True, timeout=60
        )

    return work


@pytest.fixture(scope="module")
def server(files):
    """Answers every chat as `specreason-sgl serve` does, with the trace of `files`."""
    trace = json.loads((files / "trace.json").read_text())
    events = [{"step": step} for step in trace["steps"]] + [{"trace": trace}]
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "pair", "choices": []}
    lines = [f"data: {json.dumps({**chunk, 'specreason': event})}\n\n" for event in events]

    class Handler(BaseHTTPRequestHandler):
        def reply(self, kind, text):
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(text.encode())

        def do_GET(self):
            models = {"object": "list", "data": [{"id": "pair", "object": "model"}]}
            self.reply("application/json", json.dumps(models))

        def do_POST(self):
            self.reply("text/event-stream", "".join(lines) + "data: [DONE]\n\n")

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def tracked(*folders):
    names = subprocess.check_output(["git", "ls-files", *folders], cwd=ROOT, text=True).splitlines()
    return {name for name in names if (ROOT / name).exists()}


def test_the_wheel_has_the_files_of_the_package_and_its_licence_and_no_others():
    [wheel] = (ROOT / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name for name in names if ".dist-info/" not in name} == tracked("specreason_sgl")
    assert {"LICENSE", "METADATA", "entry_points.txt"} <= {Path(name).name for name in names}


def test_the_sdist_has_what_the_wheel_is_built_from_and_no_more():
    [sdist] = (ROOT / "dist").glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        members = [member.name.partition("/")[2] for member in archive if member.isfile()]
    names = {name for name in members if ".egg-info/" not in name}
    generated = {"PKG-INFO", "setup.cfg"}
    assert names - generated == tracked(
        "specreason_sgl", "LICENSE", "README.md", "pyproject.toml", "MANIFEST.in"
    )


def test_the_environment_has_the_wheel_and_no_sglang(run):
    done = run("python", "-c", "import specreason_sgl; print(specreason_sgl.__file__)")
    assert str(READER.parent) in done.stdout
    packages = {package["name"] for package in json.loads(run("pip", "list", "--format", "json").stdout)}
    assert packages.isdisjoint({"sglang", "torch", "transformers", "fastapi"})


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--help"], "Commands:"),
        (["--version"], "sglang not installed"),
        (["show", "trace.json"], "corrected"),
        (["show", "trace.json", "--html", "trace.html"], "written: trace.html"),
        (["report", "run.jsonl"], "pipelined"),
        (["report", "run.jsonl", "--html", "report.html"], "pipelined"),
    ],
)
def test_what_reads_files_works(run, arguments, says):
    done = run("specreason-sgl", *arguments)
    assert (done.returncode, says in done.stdout) == (0, True), done


def test_what_asks_a_running_server_works(run, server):
    solved = run("specreason-sgl", "solve", "How fast?", "--server", server)
    assert (solved.returncode, "corrected" in solved.stdout) == (0, True), solved
    chatted = run("specreason-sgl", "chat", "--server", server, input="How fast?\n")
    assert (chatted.returncode, "corrected" in chatted.stdout) == (0, True), chatted


@pytest.mark.parametrize(
    "arguments",
    [
        ["solve", "q"],
        ["solve", "q", "--draft-url", "http://127.0.0.1:9", "--base-url", "http://127.0.0.1:9"],
        ["serve", "--port", "0"],
        ["eval", "--data", "trace.json"],
        ["calibrate", "--data", "trace.json"],
        ["bench"],
    ],
)
def test_what_needs_sglang_says_in_one_line_how_to_get_it(run, arguments):
    done = run("specreason-sgl", *arguments)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1), done
    assert done.stderr.startswith("error: ")
    assert GIVES_SGLANG in done.stderr


def test_in_python_too(run):
    assert run("python", "-c", "from specreason_sgl import Trace, SpecReasonConfig, Correct").returncode == 0
    done = run("python", "-c", "from specreason_sgl import solve")
    assert f"NotInstalled: sglang {GIVES_SGLANG}" in done.stderr.splitlines()[-1]
