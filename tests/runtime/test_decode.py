"""SGLang's speculative decoding of the base server: its flags, checked."""

import argparse
import json

import pytest

from specreason_sgl.errors import ConfigError
from specreason_sgl.runtime import launch, machine
from specreason_sgl.runtime.decode import check_decode, decode_args, with_proposer
from specreason_sgl.runtime.flags import parse_flags
from specreason_sgl.runtime.launch import launch_pair
from specreason_sgl.runtime.pairs import Model, PairSpec
from specreason_sgl.runtime.sizes import Load

CHAIN = "--speculative-num-steps 3 --speculative-eagle-topk 1 --speculative-num-draft-tokens 4"


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(machine, "uses_cpu_platform", lambda: False)
    monkeypatch.setattr(machine, "gpus", list)


def model(folder, size=100, tokens=None):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"vocab_size": size}))
    if tokens is not None:
        tokenizer = {"model": {"vocab": tokens}, "added_tokens": [{"id": 9, "content": "<end>"}]}
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return str(folder)


@pytest.mark.parametrize(
    ("decode", "base_args", "flags"),
    [
        (None, [], ""),
        (
            "standalone",
            [],
            "--speculative-algorithm STANDALONE --speculative-draft-model-path {draft} " + CHAIN,
        ),
        (
            "eagle3",
            ["--speculative-draft-model-path", "some/head"],
            "--speculative-algorithm EAGLE3",
        ),
        ("eagle3", ["--speculative-draft-model=some/head"], "--speculative-algorithm EAGLE3"),
        ("NGram", [], "--speculative-algorithm NGRAM"),
        ("nextn", [], "--speculative-algorithm NEXTN"),
        ("dspark", [], "--speculative-algorithm DSPARK"),
    ],
)
def test_the_flags_are_sglangs(gpu, tmp_path, decode, base_args, flags):
    from sglang.srt.server_args import ServerArgs

    draft, base = model(tmp_path / "draft"), model(tmp_path / "base")
    given = parse_flags("--base-args", base_args)
    check_decode(decode, given)
    args = decode_args(decode, draft, base, given)
    assert args == flags.format(draft=draft).split()
    parser = argparse.ArgumentParser()
    ServerArgs.add_cli_args(parser)
    parsed = parser.parse_args(["--model-path", base, *args, *base_args, "--speculative-num-steps", "5"])
    assert parsed.speculative_num_steps == 5  # the user's, which stands last, wins
    assert (parsed.speculative_draft_model_path is None) == (decode not in ("standalone", "eagle3"))


@pytest.mark.parametrize(
    ("decode", "base_args", "says"),
    [
        (
            "ngram",
            ["--speculative-algorithm=NGRAM"],
            "--decode ngram and --speculative-algorithm in the base's flags exclude each other",
        ),
        (
            "eagle3",
            [],
            "--decode eagle3 needs a draft head made for the base model: add "
            "--speculative-draft-model-path FOLDER-OR-NAME to the base's flags",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_fetched(
    gpu, monkeypatch, decode, base_args, says
):
    monkeypatch.setattr(launch, "fetch", lambda *_: pytest.fail("weights were fetched"))
    with pytest.raises(ConfigError) as raised:
        launch_pair(PairSpec("x", Model("a"), Model("b")), decode=decode, base_args=base_args).__enter__()
    assert str(raised.value) == says


@pytest.mark.parametrize("name", ["magic", "none", "eagle 3"])
def test_an_algorithm_that_sglang_does_not_know_is_refused_with_those_it_knows(name):
    from sglang.srt.speculative.spec_info import SpeculativeAlgorithm

    with pytest.raises(
        ConfigError, match=r"^--decode must be one of SGLang's dflash, .*, ngram, got "
    ) as raised:
        check_decode(name, {})
    assert str(raised.value).count(",") == len(SpeculativeAlgorithm) - 1  # without NONE, and before "got"


def test_what_a_plugin_registered_passes(gpu, monkeypatch):
    from sglang.srt.speculative import spec_registry
    from sglang.srt.speculative.spec_info import SpeculativeAlgorithm

    monkeypatch.setattr(spec_registry, "_REGISTRY", {})
    SpeculativeAlgorithm.register("MINE")(lambda server_args: None)
    check_decode("mine", {})
    assert decode_args("mine", "a", "b", {}) == ["--speculative-algorithm", "MINE"]


def test_the_base_server_also_loads_what_proposes_its_tokens(tmp_path):
    draft, base, head = Load(4, 1), Load(40, 4), model(tmp_path / "head")
    (tmp_path / "head" / "model.safetensors").write_bytes(b"12")
    named = {"speculative_draft_model_path": head}
    assert with_proposer(None, {}, draft, base) == (draft, base)
    assert with_proposer("Standalone", {}, draft, base) == (draft, Load(44, 5))
    assert with_proposer("eagle3", named, draft, base) == (draft, Load(42, 0))
    assert with_proposer("standalone", named, draft, base)[1].weights == 42


def test_nothing_of_it_runs_on_the_cpu_platform(monkeypatch):
    monkeypatch.setattr(machine, "uses_cpu_platform", lambda: True)
    monkeypatch.setattr(launch, "fetch", lambda *_: pytest.fail("weights were fetched"))
    with pytest.raises(ConfigError) as raised:
        launch_pair(PairSpec("x", Model("a"), Model("b")), decode="ngram").__enter__()
    assert str(raised.value) == (
        "--decode ngram needs a GPU, for Triton's kernels and sgl_kernel's operators: omit it, or use a "
        "machine with one"
    )


def test_a_draft_with_another_number_of_tokens_cannot_propose_any(gpu, tmp_path):
    draft, base = model(tmp_path / "draft", 151936), model(tmp_path / "base", 152064)
    with pytest.raises(ConfigError) as raised:
        decode_args("standalone", draft, base, {})
    assert str(raised.value) == (
        "--decode standalone needs a draft with the base's vocabulary: draft has 151936 tokens, base 152064"
    )
    fitting = model(tmp_path / "fitting", 152064)
    proposer = {"speculative_draft_model_path": fitting}
    assert decode_args("standalone", draft, base, proposer)[-2:] == ["--speculative-num-draft-tokens", "4"]


def test_a_draft_that_numbers_its_tokens_differently_cannot_propose_any(gpu, tmp_path):
    base = model(tmp_path / "base", tokens={"a": 0, "b": 1})
    with pytest.raises(ConfigError, match="other and base number their tokens differently"):
        decode_args("standalone", model(tmp_path / "other", tokens={"b": 0, "a": 1}), base, {})
    for name, tokens in (("same", {"b": 1, "a": 0}), ("scores", [["a", -1.0]]), ("none", None)):
        assert decode_args("standalone", model(tmp_path / name, tokens=tokens), base, {})


def test_a_size_is_looked_for_where_config_json_has_it(gpu, tmp_path):
    with pytest.raises(ConfigError, match="has 100 tokens, base 200"):
        decode_args("standalone", model(tmp_path / "draft"), model(tmp_path / "base", 200), {})
    nested = tmp_path / "nested"
    nested.mkdir()
    (nested / "config.json").write_text('{"text_config": {"vocab_size": 200}}')
    assert decode_args("standalone", str(nested), str(tmp_path / "base"), {})
    assert decode_args("standalone", "some/model", str(tmp_path / "base"), {})  # SGLang will tell
