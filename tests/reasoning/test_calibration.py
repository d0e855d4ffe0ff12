import json

import msgspec
import pytest

from specreason_sgl.errors import ConfigError
from specreason_sgl.reasoning.acceptance import Quantile
from specreason_sgl.reasoning.calibration import (
    StepThreshold,
    find_calibration,
    get_calibration,
    get_step_threshold,
)
from specreason_sgl.reasoning.config import SpecReasonConfig
from specreason_sgl.reasoning.repair import Correct, Rewrite
from specreason_sgl.reasoning.verifiers import Likelihood
from specreason_sgl.runtime.pairs import PAIRS
from tests.support.calibrations import CALIBRATION, THRESHOLD


@pytest.fixture
def path(tmp_path):
    CALIBRATION.save(tmp_path / "calibration.json")
    return tmp_path / "calibration.json"


def test_a_calibration_written_and_read_is_the_same(path):
    assert find_calibration(str(path)) == CALIBRATION
    assert [file.name for file in path.parent.iterdir()] == ["calibration.json"]


def changed(document, **fields):
    return json.dumps({**msgspec.to_builtins(document), **fields})


def with_knobs(**knobs):
    curve = msgspec.to_builtins(CALIBRATION.curve)
    return changed(CALIBRATION, curve=[{**point, "knobs": {**point["knobs"], **knobs}} for point in curve])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not a calibration"),
        ("{}", "not a calibration"),
        ('{"version": 1', "not a calibration"),
        (changed(THRESHOLD, values=["a"]), r"not a calibration .*Expected `float`.* - at `\$\.values\[0\]`"),
        (changed(THRESHOLD, keep=1.5), r"not a calibration .*<= 1.0 - at `\$\.keep`"),
        (changed(THRESHOLD, verifier="guess"), "verifier must be one of score, .*, got 'guess'"),
        (changed(CALIBRATION, more=1), "not a calibration"),
        (changed(CALIBRATION, version=3), "this package reads version 2, got version 3"),
        (changed(CALIBRATION, chosen="else"), "must have a chosen setting"),
        (with_knobs(repair="guess"), "repair must be one of correct, rewrite, got 'guess'"),
        (with_knobs(delta=-1), "delta must be a number of at least 0, got -1"),
        (b"\xff\xfe".decode("latin-1"), "not a calibration"),
    ],
)
def test_a_damaged_file_is_one_clear_error(tmp_path, text, says):
    path = tmp_path / "damaged.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=says) as raised:
        find_calibration(str(path))
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.json cannot be read"):
        find_calibration(str(tmp_path / "none.json"))


def test_the_chosen_setting_is_the_arguments_of_a_run(path):
    config = SpecReasonConfig(**CALIBRATION.settings())
    assert (config.repair, config.verifier) == (Correct(delta=2.0, window=None), None)
    rewrites = msgspec.structs.replace(CALIBRATION, chosen="pipelined")
    config = SpecReasonConfig(**rewrites.settings())
    assert (config.repair, config.verifier, config.threshold) == (Rewrite(), Likelihood(reduce="min"), -4)


def test_without_a_chosen_setting_there_are_no_arguments(path):
    msgspec.structs.replace(CALIBRATION, chosen=None).save(path)
    with pytest.raises(ConfigError, match="none of its 2 was shown to lose at most 5 points"):
        find_calibration(str(path)).settings()


def test_a_file_of_version_1_is_a_verifier_and_its_threshold(tmp_path):
    path = tmp_path / "old.json"
    path.write_text(changed(THRESHOLD, table=[{"verifier": "score"}], data={"problems": 3}))
    old = find_calibration(str(path))
    config = SpecReasonConfig(**old.settings())
    assert (config.repair, config.verifier, config.threshold) == (Rewrite(), Likelihood(reduce="min"), -4.5)


def test_another_share_takes_its_threshold_from_the_values():
    assert THRESHOLD.settings(0.9)["threshold"] == Quantile(0.9, THRESHOLD.values)
    rule = SpecReasonConfig(**THRESHOLD.settings(0.5)).rule
    assert [rule.keeps(value, ()) for value in (-6, -4, -0.5)] == [False, True, True]


@pytest.mark.parametrize("find", [get_calibration, get_step_threshold])
@pytest.mark.parametrize("pair", PAIRS)
def test_the_packages_own_are_of_their_pairs(find, pair):
    if (packaged := find(pair)) is None:
        return
    assert (packaged.draft_model, packaged.base_model) == (PAIRS[pair].draft.repo, PAIRS[pair].base.repo)
    if isinstance(packaged, StepThreshold):
        kept = sum(value >= packaged.threshold for value in packaged.values) / len(packaged.values)
        assert kept == pytest.approx(packaged.keep, abs=0.01)
