"""What judges a drafted step as a whole, which judged steps are kept, and what a pair's calibration says."""

from specreason_sgl.reasoning.acceptance import FixedShare, Quantile, Rule, Threshold
from specreason_sgl.reasoning.calibration import Calibration, get_calibration
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
    "Threshold",
    "UtilityScore",
    "Verifier",
    "YesNo",
    "get_calibration",
]
