import json

import msgspec
import pytest

from specreason_sgl.errors import ConfigError
from specreason_sgl.reasoning.acceptance import Quantile
from specreason_sgl.reasoning.calibration import Calibration, get_calibration
from specreason_sgl.reasoning.config import SpecReasonConfig
from specreason_sgl.reasoning.repair import Rewrite
from specreason_sgl.reasoning.verifiers import Likelihood
from specreason_sgl.runtime.pairs import PAIRS

CALIBRATION = Calibration(
    draft_model="small é", base_model="big", verifier="likelihood-min", keep=0.6, threshold=-4.5,
    values=(-9.0, -5.0, -1.0), table=({"verifier": "score", "auroc": 0.5},), data={"problems": 3},
)  # fmt: skip


@pytest.fixture
def path(tmp_path):
    CALIBRATION.save(tmp_path / "calibration.json")
    return tmp_path / "calibration.json"


def test_a_calibration_written_and_read_is_the_same(path):
    assert Calibration.load(path) == CALIBRATION
    assert [file.name for file in path.parent.iterdir()] == ["calibration.json"]


def changed(**fields):
    return json.dumps({**msgspec.to_builtins(CALIBRATION), **fields})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not a calibration"),
        ("{}", "not a calibration"),
        ('{"version": 1', "not a calibration"),
        (changed(values=["a"]), r"not a calibration .*Expected `float`, got `str` - at `\$\.values\[0\]`"),
        (changed(keep=1.5), r"not a calibration .*<= 1.0 - at `\$\.keep`"),
        (changed(more=1), "not a calibration"),
        (changed(version=2), "this package reads version 1, got version 2"),
        (changed(verifier="guess"), "verifier must be one of score, .*, got 'guess'"),
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


def test_a_missing_file_is_named(tmp_path):
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


@pytest.mark.parametrize("pair", [name for name in PAIRS if get_calibration(name)])
def test_the_packages_own_calibrations_are_of_their_pairs(pair):
    calibration, spec = get_calibration(pair), PAIRS[pair]
    assert (calibration.draft_model, calibration.base_model) == (spec.draft.repo, spec.base.repo)
    kept = sum(value >= calibration.threshold for value in calibration.values) / len(calibration.values)
    assert kept == pytest.approx(calibration.keep, abs=0.01)
    SpecReasonConfig(**calibration.settings())
