"""`config_of`: settings from plain values."""

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from specreason_sgl import SpecReason, files
from specreason_sgl.errors import ConfigError
from specreason_sgl.reasoning import calibration as calibrations
from specreason_sgl.reasoning.acceptance import Quantile
from specreason_sgl.reasoning.calibration import get_step_threshold
from specreason_sgl.reasoning.config import SpecReasonConfig
from specreason_sgl.reasoning.plain import KNOBS, config_of
from specreason_sgl.reasoning.repair import Correct, Rewrite
from specreason_sgl.reasoning.verifiers import Likelihood, PaperScore, UtilityScore
from tests.support.calibrations import CALIBRATION, THRESHOLD


@pytest.fixture
def path(tmp_path):
    """A file of version 1."""
    files.write(tmp_path / "steps.json", THRESHOLD)
    return str(tmp_path / "steps.json")


def judging(**given):
    config = config_of(given)
    return config.repair, config.verifier, config.threshold


def test_given_values_override_the_calibration_of_steps(path):
    calibrated = Rewrite(), Likelihood(reduce="min")
    assert judging(calibration=path) == (*calibrated, -4.5)
    assert judging(calibration=path, threshold=-2) == (*calibrated, -2)
    assert judging(calibration=path, keep=0.2) == (*calibrated, Quantile(0.2, THRESHOLD.values))
    assert judging(verifier="score", keep=0.5) == (Rewrite(), UtilityScore(), Quantile(0.5))


@pytest.fixture
def chosen(tmp_path, monkeypatch):
    """A calibration, which the package has for the pair nano."""
    CALIBRATION.save(tmp_path / "nano.json")
    monkeypatch.setattr(calibrations, "PACKAGED", tmp_path)
    return {"calibration": str(tmp_path / "nano.json")}


def test_a_calibrations_setting_stands_where_the_user_gives_none(chosen):
    setting = Correct(delta=2.0, window=None)
    assert judging(**chosen) == (setting, None, None)
    assert config_of({**chosen, "lookahead": 2}) == SpecReasonConfig(repair=setting, lookahead=2)
    assert judging(**chosen, delta=1.0) == (Correct(delta=1.0, window=None), None, None)
    assert judging(**chosen, threshold=5) == (Rewrite(), UtilityScore(), 5)
    msgspec.structs.replace(CALIBRATION, chosen="pipelined").save(Path(chosen["calibration"]))
    rewrites = Rewrite(), Likelihood(reduce="min")
    assert judging(**chosen) == judging(**chosen, repair="rewrite") == (*rewrites, -4)
    assert judging(**chosen, threshold=-2) == (*rewrites, -2)
    assert judging(**chosen, delta=1.0) == (Correct(delta=1.0), None, None)


def test_a_pairs_calibration_is_its_default_but_not_a_servers(chosen):
    setting = Correct(delta=2.0, window=None)
    assert config_of({}, pair="nano").repair == config_of({"calibration": "nano"}).repair == setting
    assert SpecReason("nano").config == config_of({}, pair="nano")
    assert config_of({"window": 8}, pair="nano").repair == Correct(delta=2.0, window=8)
    assert config_of({}, pair="nano", defaults=SpecReasonConfig()) == SpecReasonConfig()
    msgspec.structs.replace(CALIBRATION, chosen=None).save(Path(chosen["calibration"]))
    assert config_of({}, pair="nano") == SpecReasonConfig()
    with pytest.raises(ConfigError, match="calibration must have a chosen setting"):
        config_of(chosen)


@pytest.mark.parametrize("pair", [None, "mini", "nano"])
def test_tokens_are_corrected_by_default(pair):
    assert config_of({}, pair=pair) == SpecReasonConfig()
    assert config_of({"lookahead": 2, "delta": None}, pair=pair) == SpecReasonConfig(lookahead=2)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"delta": 1.0}, Correct(delta=1.0)),
        ({"delta": 2, "numeric_delta": 0, "window": 8}, Correct(delta=2, numeric_delta=0, window=8)),
        ({"window": "step"}, Correct(window=None)),
        ({"window": "auto", "delta": 1.0}, Correct(delta=1.0, window="auto")),
    ],
)
def test_the_numbers_of_the_correction_are_taken_as_given(given, expected):
    assert judging(**given) == judging(repair="correct", **given) == (expected, None, None)


@pytest.mark.parametrize(
    "given", [{"verifier": "score"}, {"threshold": 5}, {"keep": 0.5}, {"calibration": "mini"}]
)
def test_steps_are_rewritten_if_a_judgement_is_given(given):
    repair, *judge = judging(**given)
    assert repair == Rewrite()
    assert judging(repair="correct", delta=1.0, **given) == (Correct(delta=1.0), *judge)


@pytest.mark.parametrize(
    ("given", "says", "about"),
    [
        ({"threshold": 5, "keep": 0.5}, "threshold and keep must not be given together", "threshold"),
        ({"verifier": "score", "calibration": "mini-steps"}, "verifier and calibration must not", "verifier"),
        ({"verifier": "yes-no"}, "must be given with the verifier yes-no", "threshold"),
        ({"verifier": "yes-no", "repair": "correct"}, "must be given with the verifier yes-no", "threshold"),
        ({"verifier": "none", "threshold": 5}, "verifier must be one of .*, got 'none'", "verifier"),
        ({"repair": "mend"}, "repair must be .*'correct'.*, got 'mend'", "repair"),
        ({"repair": "rewrite", "delta": 1.0}, "delta must come with repair correct, got rewrite", "repair"),
        ({"threshold": 5, "window": "step"}, "window must come with repair correct, got rewrite", "repair"),
        ({"keep": 0.5, "delta": 1.0, "numeric_delta": 0.5}, "delta and numeric_delta must come", "repair"),
        ({"keep": 1.5}, "keep must be a number above 0 and at most 1, got 1.5", "keep"),
        ({"delta": -1.0}, "delta must be a number of at least 0, got -1.0", "delta"),
        ({"window": 0}, "window must be a whole number of at least 1, or 'auto' or 'step', got 0", "window"),
        ({"token_budget": -1}, "token_budget must be a whole number from 0 to", "token_budget"),
        ({"budget": 1}, "no setting budget", "budget"),
    ],
)  # fmt: skip
def test_values_out_of_range_and_contradictions_are_refused(given, says, about):
    with pytest.raises(ConfigError, match=says) as raised:
        config_of(given)
    assert raised.value.knobs[0] == about
    assert "\n" not in str(raised.value)


def test_a_pairs_calibration_judges_rewritten_steps():
    calibration = get_step_threshold("mini")
    calibrated = config_of({"repair": "rewrite"}, pair="mini")
    assert (calibrated.verifier, calibrated.threshold) == tuple(
        map(calibration.settings().get, ("verifier", "threshold"))
    )
    assert config_of({"keep": 0.5}, pair="mini").threshold == Quantile(0.5, calibration.values)
    # A threshold alone is on the scale of the paper's digit.
    assert config_of({"threshold": 5}, pair="mini") == config_of({"threshold": 5})
    assert config_of({"verifier": "yes-no", "threshold": 0.5}, pair="mini").threshold == 0.5
    nano = config_of({"repair": "rewrite"}, pair="nano")
    assert (nano.verifier, nano.threshold) == (UtilityScore(), 7.0)
    assert config_of({"verifier": "score-paper"}).verifier == PaperScore()
    assert config_of({"calibration": "mini"}) == calibrated  # with servers that are given by URL
    with pytest.raises(ConfigError, match="nano cannot be read"):
        config_of({"calibration": "nano"})


def test_a_pairs_calibration_does_not_judge_corrected_steps():
    assert config_of({"repair": "correct"}, pair="mini").verifier is None
    kept = config_of({"repair": "correct", "keep": 0.5}, pair="mini")
    assert (kept.verifier, kept.threshold) == (UtilityScore(), Quantile(0.5))


def test_values_that_are_not_given_are_the_servers():
    corrects = SpecReasonConfig(repair=Correct(delta=2, window=4), lookahead=3)
    assert config_of({"delta": 1.0}, defaults=corrects) == config_of(
        {"delta": 1.0, "window": 4, "lookahead": 3}
    )
    assert config_of({"repair": "correct", "delta": 1.0}, defaults=corrects).repair == Correct(
        delta=1.0, window=4
    )
    assert config_of({"repair": "rewrite"}, defaults=corrects, pair="mini") == replace(
        config_of({"repair": "rewrite"}, pair="mini"), lookahead=3
    )
    rewrites = SpecReasonConfig(repair="rewrite", verifier="yes-no", threshold=Quantile(0.9, (0.1, 0.5)))
    stricter = config_of({"keep": 0.5}, defaults=rewrites)
    assert (stricter.verifier, stricter.threshold) == (rewrites.verifier, Quantile(0.5, (0.1, 0.5)))
    assert config_of({"threshold": 0.7}, defaults=rewrites).repair == Rewrite()
    assert config_of({"delta": 1.0}, defaults=rewrites) == SpecReasonConfig(repair=Correct(delta=1.0))


@pytest.mark.parametrize("name", KNOBS)
def test_each_knob_is_documented(name):
    knob = KNOBS[name]
    assert knob.help.endswith(".")
    assert knob.expected
    assert knob.unit or knob.kind is not int or name == "seed", "whole numbers count something"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("window", "step", "step"),
        ("window", "8", 8),
        ("delta", "2.5", 2.5),
        ("repair", "rewrite", "rewrite"),
        ("instruction", "8", "8"),
        ("template", '{"enable_thinking": false}', {"enable_thinking": False}),
    ],
)
def test_a_knob_reads_its_value_from_a_text(name, text, value):
    assert KNOBS[name].parse(text) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [("window", "steps"), ("delta", ""), ("repair", "mend"), ("template", "[1]"), ("lookahead", "1.5")],
)
def test_a_text_that_is_not_a_value_of_the_knob_is_refused(name, text):
    with pytest.raises(ConfigError, match=f"^{name} must be .*, got {text!r}".replace("[1]", r"\[1\]")):
        KNOBS[name].parse(text)
