"""programs/gpu_bench.sh: its options, checks and the commands that it would run."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parents[1] / "programs"
SCRIPT = PROGRAMS / "gpu_bench.sh"

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="bash not found on PATH: install bash")


def run(*args):
    env = {**os.environ, "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        ["bash", str(SCRIPT), *map(str, args)], capture_output=True, text=True, env=env, check=False
    )


@pytest.fixture
def tokenizer(tmp_path):
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_text("not to be copied")
    return folder


@pytest.mark.parametrize(
    ("model", "parameters"),
    [("qwq-32b", 32_763_876_352), ("deepseek-r1-distill-qwen-1.5b", 1_777_088_000)],
)
def test_configurations_have_the_parameters_of_the_public_models(model, parameters):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(PROGRAMS / "gpu_bench" / model)
    with torch.device("meta"):
        made = AutoModelForCausalLM.from_config(config)
    assert sum(p.numel() for p in made.parameters()) == parameters
    assert config.dtype == torch.bfloat16


def test_help_explains_every_option():
    done = run("--help")
    assert done.returncode == 0
    options = ("--tokenizer", "--out", "--wheels", "--attention-backend", "--token-budget", "--correct-every")
    for option in (*options, "--limit", "--dry-run"):
        assert option in done.stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--fast"], "no such option: --fast"),
        (["--out"], "--out needs a value"),
        (["--out", "OUT"], "--tokenizer is missing"),
        (["--tokenizer", "TOKENIZER"], "--out is missing"),
        (["--tokenizer", "OUT", "--out", "OUT"], "has no tokenizer.json"),
        (["--tokenizer", "TOKENIZER", "--out", "OUT", "--limit", "soon"], "whole numbers above 0, got soon"),
        (["--tokenizer", "TOKENIZER", "--out", "OUT", "--correct-every", "0"], "above 0, got 0"),
        (["--tokenizer", "TOKENIZER", "--out", "OUT", "--wheels", "OUT"], "holds no wheels"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(args, message, tokenizer, tmp_path):
    places = {"TOKENIZER": tokenizer, "OUT": tmp_path / "out"}
    done = run(*(places.get(arg, arg) for arg in args))
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_without_a_gpu_it_stops_before_anything_is_written(tokenizer, tmp_path):
    done = run("--tokenizer", tokenizer, "--out", tmp_path / "out")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: no CUDA GPU")
    assert not (tmp_path / "out").exists()


def test_sglang_accepts_the_flags_of_both_parts(tokenizer, tmp_path):
    import argparse

    from sglang.srt.server_args import ServerArgs

    done = run("--tokenizer", tokenizer, "--out", tmp_path / "out", "--dry-run")
    assert done.returncode == 0
    parser = argparse.ArgumentParser(exit_on_error=False)
    ServerArgs.add_cli_args(parser)
    algorithms = []
    for line in done.stdout.splitlines():
        words = shlex.split(line)
        for option in ("--draft-args", "--base-args"):
            flags = shlex.split(words[words.index(option) + 1])
            parsed = parser.parse_args(["--model-path", "some/model", *flags])
            assert parsed.max_total_tokens
        algorithms.append(parsed.speculative_algorithm)
    assert algorithms == [None, "STANDALONE"]


def test_both_repairs_are_timed(tokenizer, tmp_path):
    done = run("--tokenizer", tokenizer, "--out", tmp_path / "out", "--correct-every", "24", "--dry-run")
    for line in done.stdout.splitlines():
        words = shlex.split(line)
        assert {"sequential", "pipelined", "correct"} <= set(words[words.index("--modes") + 1].split(","))
        assert words[words.index("--correct-every") + 1] == "24"
        assert words[words.index("--acceptance") + 1] == "0.8,0.95"
    assert len(done.stdout.splitlines()) == 2
