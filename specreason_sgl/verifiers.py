"""What judges a drafted step as a whole, which judged steps are kept, and what a pair's calibrations say."""

from specreason_sgl.reasoning.acceptance import FixedShare, Quantile, Rule, Threshold
from specreason_sgl.reasoning.calibration import (
    Calibration,
    StepThreshold,
    get_calibration,
    get_step_threshold,
)
from specreason_sgl.reasoning.verifier import Drafted, Judgement, Verifier
from specreason_sgl.reasoning.verifiers import Likelihood, PaperScore, RewardModel, UtilityScore, YesNo

__all__ = [
    "Calibration",
    "Drafted",
    "FixedShare",
    "Judgement",
    "Likelihood",
    "PaperScore",
    "Quantile",
    "RewardModel",
    "Rule",
    "StepThreshold",
    "Threshold",
    "UtilityScore",
    "Verifier",
    "YesNo",
    "get_calibration",
    "get_step_threshold",
]
