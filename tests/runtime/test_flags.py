"""SGLang's own parser refuses wrong flags before a server is started."""

import pytest

from specreason_sgl.errors import ConfigError
from specreason_sgl.runtime import launch
from specreason_sgl.runtime.flags import flag_value, parse_flags
from specreason_sgl.runtime.launch import launch_pair
from specreason_sgl.runtime.pairs import Model, PairSpec


@pytest.mark.parametrize(
    ("args", "value"),
    [
        ([], None),
        (["--a", "1"], "1"),
        (["--a=1", "--a", "2"], "2"),
        (["--a"], ""),
        (["--b", "--abc", "1"], None),
    ],
)
def test_the_last_value_of_a_flag_counts(args, value):
    assert flag_value(args, ["--a"]) == value


@pytest.mark.parametrize(
    ("args", "read"),
    [
        ([], {}),
        (
            ["--mem-fraction-static", "0.5", "--tp-size=2", "--enable-metrics"],
            {"mem_fraction_static": 0.5, "tp_size": 2, "enable_metrics": True},
        ),
        (["--mem-fraction-st", "0.5"], {"mem_fraction_static": 0.5}),  # SGLang takes abbreviations
        (["--tp", "4"], {"tp_size": 4}),
        (["--speculative-draft-model", "head"], {"speculative_draft_model_path": "head"}),
        (["--config", "flags.yaml"], {"config": "flags.yaml"}),
    ],
)
def test_flags_of_sglang_pass_and_only_those_given_are_read(args, read):
    assert parse_flags("--base-args", args) == read


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (
            ["--mem-fraction-statik", "0.5"],
            "--base-args must be flags of SGLang, got '--mem-fraction-statik': "
            "did you mean --mem-fraction-static?",
        ),
        (
            ["--enable-metrics", "--tensor-parallel-sise=2"],
            "--base-args must be flags of SGLang, got '--tensor-parallel-sise': "
            "did you mean --tensor-parallel-size?",
        ),
        (["--xyzzy"], "--base-args must be flags of SGLang, got '--xyzzy': see `sglang serve --help`"),
        (["--help"], "--base-args must be flags of SGLang, got '--help': "),
        (["0.5"], "--base-args must be flags of SGLang, got '0.5', which belongs to none"),
        (
            ["--tp-size", "two"],
            "--base-args has a flag that SGLang refuses: argument --tp-size/--tensor-parallel-size: "
            "invalid int value: 'two'",
        ),
        (["--dtype", "int3"], "--base-args has a flag that SGLang refuses: argument --dtype: invalid choice"),
        (["--mem-fraction-static"], "--base-args has a flag that SGLang refuses: argument --mem-fraction"),
    ],
)
def test_what_sglang_would_refuse_is_named(args, says):
    with pytest.raises(ConfigError) as raised:
        parse_flags("--base-args", args)
    assert str(raised.value).startswith(says)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("side", ["draft", "base"])
def test_a_pair_with_wrong_flags_is_refused_before_anything_is_fetched_or_started(monkeypatch, side):
    monkeypatch.setattr(launch, "fetch", lambda *_: pytest.fail("weights were fetched"))
    monkeypatch.setattr(launch, "Server", lambda *_: pytest.fail("a server was started"))
    spec = PairSpec("x", Model("a"), Model("b"))
    with pytest.raises(ConfigError, match=f"^--{side}-args must be flags of SGLang, got '--dtipe'"):
        launch_pair(spec, **{f"{side}_args": ["--dtipe", "auto"]}).__enter__()
