"""The tables and pictures of RESULTS.md and README.md, from the runs in results/: `make figures`.

A table stands under a comment that names it, such as <!-- figures: one-at-a-time -->.

    python -m docs.figures
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from specreason_sgl.display import judges as judges_view
from specreason_sgl.display.disagreements import score_table
from specreason_sgl.display.markdown import markdown_table
from specreason_sgl.display.pictures import png, trade_off
from specreason_sgl.evaluation import judges, learned
from specreason_sgl.evaluation.disagreements import read_branched
from specreason_sgl.evaluation.groups import Group, load
from specreason_sgl.evaluation.projection import Speeds, project, token_level
from specreason_sgl.evaluation.report import Row, figures

ROOT = Path(__file__).parents[1]
TEXTS = ("RESULTS.md", "README.md")
TABLE = re.compile(r"(<!-- figures: (\S+) -->\n\n)(?:\|.*\n)*")
NAMES = {
    "base": "base alone", "draft": "draft alone", "paper": "the paper's method", "correct": "the default",
    "mix share=0.5": "one of the two, at random",
}  # fmt: skip
LATENCY = ("base", "correct", "draft")
ONE_AT_A_TIME = (
    "base", *(f"correct delta={delta} window=auto" for delta in (1, 2, 3, 5)), "correct delta=3 window=step",
    "paper", "pipelined", "draft",
)  # fmt: skip
PILOT = ("base", "correct delta=1 numeric_delta=1", "correct delta=1", "correct delta=0.5")
Column = Callable[[Row], str]
COLUMNS: dict[str, Column] = {
    "to base, points": lambda row: _plain(row.difference.shown(0, 100, signed=True)),
    "to the line, points": lambda row: _plain(row.gap.shown(0, 100, signed=True)),
    "seconds": lambda row: f"{row.seconds.value:.1f}",
    "times faster": lambda row: row.over_base.shown() or "1",
    "draft tokens (thrown away)": lambda row: (
        f"{row.draft_decoded:.0f} ({row.thrown_away:.0f})" if row.draft_decoded else "0"
    ),
    "corrections": lambda row: f"{row.corrections:.1f}" if row.corrections else "",
    "prefills": lambda row: f"{row.prefills:.1f}" if row.prefills else "",
}
SHORT = ("seconds", "times faster", "draft tokens (thrown away)", "corrections")
LOADED = ("to base, points", *SHORT, "prefills")


@cache
def rows(run: str) -> dict[str, Row]:
    """The figures of a run in results/, by setting."""
    return {row.setting: row for row in figures(groups(run))}


def groups(run: str) -> list[Group]:
    """The samples of a run in results/, by setting. `latency` takes those of draft alone from the earlier run
    of the same problems on the same kind of machine."""
    read = load([published(run)])
    if run == "latency":
        (draft,) = (group for group in load([published("one-at-a-time")]) if group.name == "draft")
        read.append(replace(draft, comparable=read[0].comparable))
    return read


def published(run: str) -> Path:
    return ROOT / "results" / f"{run}.jsonl.gz"


def chosen(run: str, *settings: str) -> list[Row]:
    """The figures of some settings of a run, in this order."""
    return [rows(run)[setting] for setting in settings]


def table(settings: Sequence[Row], columns: Iterable[str] = COLUMNS) -> str:
    """A line for each setting."""
    samples = {row.samples for row in settings}
    is_same = len(samples) == 1
    heads = ["", f"right of {samples.pop()}" if is_same else "right", *columns]
    lines = [
        [_title(row.setting), _right(row, not is_same), *(COLUMNS[column](row) for column in columns)]
        for row in settings
    ]
    return markdown_table(heads, lines)


def assumed_table() -> str:
    """What the requests of one problem at a time would take at the speeds of large models on GPUs."""
    heads = ["", "in turns, s", "overlapped, s", "times faster, in turns", "times faster, overlapped"]
    lines = [
        [
            _title(each.setting),
            *(f"{seconds.value:.2f}" for seconds in (each.in_turns, each.overlapped)),
            *(times.shown() or "1" for times in (each.over_base_in_turns, each.over_base_overlapped)),
        ]
        for each in project(groups("latency"), Speeds())
    ]
    lines += [
        [
            f"token-level, {each.window} at a time",
            f"{each.seconds.value:.2f}", "", each.over_base.shown(), "",
        ]
        for each in token_level(groups("latency"), Speeds())
    ]  # fmt: skip
    return markdown_table(heads, lines)


def _right(row: Row, of_how_many: bool) -> str:
    return f"{row.right.value * row.samples:.0f}" + (f" of {row.samples}" if of_how_many else "")


def judges_table() -> str:
    """The area under the ROC curve of each signal, the best first."""
    ordered = sorted(judged(), key=lambda row: -row.steps.value)
    lines = [(f"`{row.signal}`", row.steps.shown(), row.solutions.shown()) for row in ordered]
    return markdown_table(("signal", "steps", "solutions"), lines)


@cache
def judged() -> list[judges.Row]:
    return judges.figures(judges.read_judged(ROOT / "results/judges-mini.jsonl.gz"))


def disagreements_table() -> str:
    """How well plain regret, and a learned score, find the disagreements that do harm."""
    branched = read_branched(ROOT / "results/disagreements-mini.jsonl.gz")
    heads, lines = score_table(learned.figures(branched))
    return markdown_table(heads, [[*map(_plain, line)] for line in lines])


def _title(setting: str) -> str:
    if setting in NAMES:
        return NAMES[setting]
    name = setting.removeprefix("correct ").removesuffix(" window=auto")
    delta, _, window = name.partition(" window=")
    return f"`{delta}`, whole steps" if window == "step" else f"`{name}`"


def _plain(text: str) -> str:
    return text.replace("-", "−").replace("+0 ", "0 ").replace("+0)", "0)").replace("−0 ", "0 ")


TABLES: dict[str, Callable[[], str]] = {
    "primary": lambda: table(chosen("primary", "base", "correct delta=1"), LOADED),
    "load": lambda: table(chosen("load", "base", "correct delta=1", "mix share=0.5", "draft")),
    "nano": lambda: table(chosen("nano", "base", "correct delta=1", "draft"), LOADED),
    "pilot": lambda: table(chosen("pilot", *PILOT), LOADED),
    "calibration-mini": lambda: table([*rows("calibration-mini").values()], LOADED),
    "calibration-nano": lambda: table([*rows("calibration-nano").values()], LOADED),
    "latency": lambda: table(chosen("latency", *LATENCY)),
    "latency-assumed": assumed_table,
    "one-at-a-time": lambda: table(chosen("one-at-a-time", *ONE_AT_A_TIME)),
    "one-at-a-time-short": lambda: table(
        [*chosen("latency", "base", "correct"), *chosen("one-at-a-time", "paper", "draft")], SHORT
    ),
    "judges": judges_table,
    "disagreements": disagreements_table,
}


def filled(text: str) -> str:
    """The text with its tables as the runs have them."""
    return TABLE.sub(lambda place: f"{place[1]}{TABLES[place[2]]()}\n", text)


def main() -> None:
    for name in TEXTS:
        file = ROOT / name
        file.write_text(filled(file.read_text(encoding="utf-8")), encoding="utf-8")
    pictures = ROOT / "docs"
    (pictures / "one-at-a-time.png").write_bytes(png(trade_off(list(rows("one-at-a-time").values()))))
    (pictures / "judges.png").write_bytes(png(judges_view.picture(judged())))


if __name__ == "__main__":
    main()
