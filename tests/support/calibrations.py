"""A calibration of two settings, and a file of version 1."""

from specreason_sgl.reasoning.calibration import Calibration, Point, StepThreshold

_FIGURES = {
    "accuracy": 0.5, "difference": -0.01, "low": -0.03, "high": 0.01, "lost": 9, "won": 6, "over_base": 1.5,
    "corrections": 2.5, "prefills": 9.0,
}  # fmt: skip
CALIBRATION = Calibration(
    draft_model="small é", base_model="big", loss=5.0, confidence=0.9, data="problems.jsonl", problems=300,
    problem_hashes=("a",), concurrency=16, common={"temperature": 0.0}, base_accuracy=0.51,
    base_seconds=30.0, chosen="correct",
    curve=(
        Point(
            setting="correct", knobs={"repair": "correct", "delta": 2.0, "window": None}, p=0.01, passes=True,
            seconds=20.0, **_FIGURES,
        ),
        Point(
            setting="pipelined",
            knobs={"repair": "rewrite", "verifier": "likelihood-min", "threshold": -4.0},
            p=0.2, passes=False, seconds=10.0, **_FIGURES,
        ),
    ),
)  # fmt: skip
THRESHOLD = StepThreshold(
    draft_model="small é", base_model="big", verifier="likelihood-min", keep=0.6, threshold=-4.5,
    values=(-9.0, -5.0, -1.0),
)  # fmt: skip
