"""Measuring: problems with known answers, settings to compare, runs, and reports."""

from typing import TYPE_CHECKING

from specreason_sgl.lazy import names_from

if TYPE_CHECKING:
    from specreason_sgl.evaluation.evaluate import RunOptions, run_evaluation
    from specreason_sgl.evaluation.problems import Problem, load_data
    from specreason_sgl.evaluation.report import Report
    from specreason_sgl.evaluation.settings import Setting, expand
    from specreason_sgl.evaluation.tasks import Runtimes

__all__ = ["Problem", "Report", "RunOptions", "Runtimes", "Setting", "expand", "load_data", "run_evaluation"]
__getattr__, __dir__ = names_from(
    __name__,
    {
        "evaluate": ("RunOptions", "run_evaluation"),
        "problems": ("Problem", "load_data"),
        "report": ("Report",),
        "settings": ("Setting", "expand"),
        "tasks": ("Runtimes",),
    },
)
