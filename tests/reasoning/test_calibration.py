import json
from pathlib import Path

import msgspec
import pytest

from specreason_sgl.errors import ConfigError
from specreason_sgl.reasoning.acceptance import Quantile
from specreason_sgl.reasoning.calibration import Calibration, get_calibration, judging
from specreason_sgl.reasoning.config import SpecReasonConfig
from specreason_sgl.reasoning.repair import Correct, Rewrite
from specreason_sgl.reasoning.verifiers import Likelihood, PaperScore, UtilityScore
from specreason_sgl.runtime.pairs import PAIRS

CALIBRATION = Calibration(
    draft_model="small é",
    base_model="big",
    verifier="likelihood-min",
    keep=0.6,
    threshold=-4.5,
    values=(-9.0, -5.0, -1.0),
    table=({"verifier": "score", "auroc": 0.5},),
    data={"problems": 3},
)


@pytest.fixture
def path(tmp_path):
    CALIBRATION.save(tmp_path / "found.json")
    return tmp_path / "found.json"


def test_a_calibration_written_and_read_is_the_same(path):
    assert Calibration.load(path) == CALIBRATION
    assert [file.name for file in path.parent.iterdir()] == ["found.json"]


def changed(**fields):
    return json.dumps({**msgspec.to_builtins(CALIBRATION), **fields})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not a calibration"),
        ("[]", "not a calibration"),
        ("{}", "not a calibration"),
        ("null", "not a calibration"),
        ('{"version": 1', "not a calibration"),
        (changed(values=None), "not a calibration"),
        (changed(values="abc"), "not a calibration"),
        (changed(values=["a"]), r"not a calibration .*Expected `float`, got `str` - at `\$\.values\[0\]`"),
        (changed(threshold="7"), "not a calibration"),
        (changed(keep=1.5), r"not a calibration .*<= 1.0 - at `\$\.keep`"),
        (changed(more=1), "not a calibration"),
        (changed(version=2), "this package reads version 1, got version 2"),
        (changed(verifier="guess"), "no verifier 'guess'"),
        (b"\xff\xfe".decode("latin-1"), "not a calibration"),
    ],
)
def test_a_damaged_file_is_one_clear_error(tmp_path, text, says):
    path = tmp_path / "damaged.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=says) as raised:
        Calibration.load(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.json cannot be read"):
        Calibration.load(tmp_path / "none.json")


def test_the_settings_are_arguments_of_a_run():
    config = SpecReasonConfig(**CALIBRATION.settings())
    assert config.repair == Rewrite()
    assert (config.verifier, config.threshold) == (Likelihood(reduce="min"), -4.5)


def test_another_share_takes_its_threshold_from_the_values():
    assert CALIBRATION.settings(0.9)["threshold"] == Quantile(0.9, CALIBRATION.values)
    rule = SpecReasonConfig(**CALIBRATION.settings(0.5)).rule
    assert [rule.keeps(value, ()) for value in (-6, -4, -0.5)] == [False, True, True]


def test_what_a_user_says_goes_before_the_calibration(path):
    likelihood = {"repair": Rewrite(), "verifier": Likelihood(reduce="min")}
    assert judging(calibration=path) == {**likelihood, "threshold": -4.5}
    assert judging(calibration=path, threshold=-2) == {**likelihood, "threshold": -2}
    assert judging(calibration=path, keep=0.2)["threshold"] == Quantile(0.2, CALIBRATION.values)
    assert judging(verifier="score", keep=0.5)["threshold"] == Quantile(0.5)


@pytest.mark.parametrize("pair", [None, "mini", "nano"])
def test_tokens_are_corrected_where_nothing_else_is_said(pair):
    assert judging(pair=pair) == {"repair": Correct(), "verifier": None, "threshold": None}
    assert SpecReasonConfig(**judging(pair=pair)) == SpecReasonConfig()


@pytest.mark.parametrize(
    ("says", "expected"),
    [
        ({"delta": 1.0}, Correct(delta=1.0)),
        ({"delta": 2, "numeric_delta": 0, "window": 8}, Correct(delta=2, numeric_delta=0, window=8)),
        ({"window": "step"}, Correct(window=None)),
        ({"window": "auto", "delta": 1.0}, Correct(delta=1.0, window="auto")),
    ],
)
def test_the_numbers_of_the_correction_are_taken_as_given(says, expected):
    assert judging(**says)["repair"] == judging(repair="correct", **says)["repair"] == expected


@pytest.mark.parametrize(
    "says", [{"verifier": "score"}, {"threshold": 5}, {"keep": 0.5}, {"calibration": Path("mini")}]
)
def test_who_says_how_steps_are_judged_has_them_rewritten(says):
    assert judging(**says)["repair"] == Rewrite()
    corrected = judging(repair="correct", delta=1.0, **says)
    assert corrected == {**judging(**says), "repair": Correct(delta=1.0)}  # what passes is kept whole
    SpecReasonConfig(**corrected)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"threshold": 5, "keep": 0.5}, "a threshold or a share to keep, not both"),
        ({"verifier": "score", "calibration": "x"}, "a verifier or a calibration, not both"),
        ({"verifier": "yes-no"}, "the verifier yes-no needs a threshold"),
        ({"verifier": "yes-no", "repair": "correct"}, "the verifier yes-no needs a threshold"),
        ({"verifier": "none", "threshold": 5}, "no verifier 'none'"),
        ({"repair": "mend"}, "repair must be 'correct' or 'rewrite', got 'mend'"),
        ({"repair": "rewrite", "delta": 1.0}, "delta must come with repair 'correct', got 'rewrite'"),
        ({"threshold": 5, "window": "step"}, "window must come with repair 'correct', got 'rewrite'"),
        ({"keep": 0.5, "delta": 1.0, "numeric_delta": 0.5}, "delta, numeric_delta must come with"),
        ({"delta": -1.0}, "delta must be a number of nats of at least 0, got -1.0"),
        ({"window": 0}, "window must be a whole number from 1, 'auto' or None, got 0"),
        ({"window": "steps"}, "window must be a whole number from 1, 'auto' or 'step', got 'steps'"),
    ],
)
def test_what_contradicts_itself_is_refused(arguments, says):
    with pytest.raises(ConfigError, match=says) as raised:
        judging(**arguments)
    assert "\n" not in str(raised.value)


def test_a_pair_with_a_calibration_of_its_own_is_judged_by_it_where_steps_are_rewritten():
    known = get_calibration("mini")
    calibrated = known.settings()
    assert judging(pair="mini", repair="rewrite") == calibrated
    assert judging(pair="mini", keep=0.5)["threshold"] == Quantile(0.5, known.values)
    assert judging(pair="mini", threshold=5) == judging(threshold=5)  # the paper's digit, as its scale says
    assert judging(pair="mini", verifier="yes-no", threshold=0.5)["threshold"] == 0.5
    assert judging(pair="nano", repair="rewrite") == {
        "repair": Rewrite(), "verifier": UtilityScore(), "threshold": 7.0,
    }  # fmt: skip
    assert judging(verifier="score-paper")["verifier"] == PaperScore()
    assert judging(calibration=Path("mini")) == calibrated  # where the servers are named by URL
    with pytest.raises(ConfigError, match="nano cannot be read"):
        judging(calibration=Path("nano"))


def test_a_pairs_calibration_does_not_judge_what_is_corrected():
    assert judging(pair="mini", repair="correct")["verifier"] is None
    assert judging(pair="mini", repair="correct", keep=0.5)["threshold"] == Quantile(0.5)
    assert judging(pair="mini", repair="correct", keep=0.5)["verifier"] == UtilityScore()


@pytest.mark.parametrize("pair", [name for name in PAIRS if get_calibration(name)])
def test_the_packages_own_calibrations_are_of_their_pairs(pair):
    known, spec = get_calibration(pair), PAIRS[pair]
    assert (known.draft_model, known.base_model) == (spec.draft.repo, spec.base.repo)
    kept = sum(value >= known.threshold for value in known.values) / len(known.values)
    assert kept == pytest.approx(known.keep, abs=0.01)
    SpecReasonConfig(**known.settings())
