"""The tables of a report, as texts."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from specreason_sgl.display.parts import STOPS
from specreason_sgl.evaluation.estimates import LEAST, RESAMPLES
from specreason_sgl.evaluation.groups import Group, Run
from specreason_sgl.evaluation.judgements import LARGE, judgements
from specreason_sgl.evaluation.projection import Speeds, project, token_level
from specreason_sgl.evaluation.provenance import Provenance
from specreason_sgl.evaluation.report import Row

MARKS = {1.0: "✓", 0.0: "✗"}


class Table(NamedTuple):
    """A table of texts, with its title and what its columns mean."""

    title: str
    notes: Sequence[str]
    columns: Sequence[str]
    lines: Sequence[Sequence[str]]


def tables(rows: Sequence[Row], groups: Sequence[Group], speeds: Speeds | None = None) -> list[Table]:
    """Those tables that have something to say; the projection if there are assumed speeds."""
    projected = [projection(groups, speeds)] if speeds else []
    drawn = [
        accuracy_and_time(rows), cost(rows), *projected, stops(rows), judged(groups), failures(groups),
        provenance(groups),
    ]  # fmt: skip
    return [table for table in drawn if table.lines]


def accuracy_and_time(rows: Sequence[Row]) -> Table:
    columns: dict[str, Callable[[Row], str]] = {
        "setting": lambda row: row.setting,
        "samples": _samples,
        "right, %": lambda row: row.right.shown(0, 100),
        "where none failed, %": lambda row: row.right_common.shown(0, 100),
        "to base, points": lambda row: row.difference.shown(0, 100, signed=True),
        "p": lambda row: "" if row.p != row.p else f"{row.p:.2g}",
        "to the line, points": lambda row: row.gap.shown(0, 100, signed=True),
        "line": lambda row: row.line,
        "seconds": lambda row: row.seconds.shown(1),
        "p50": lambda row: f"{row.p50:.1f}",
        "p95": lambda row: f"{row.p95:.1f}",
        "over base": lambda row: row.over_base.shown(),
        "over draft": lambda row: row.over_draft.shown(),
        "over base-whole": lambda row: row.over_whole.shown(),
    }
    notes = (
        f"In brackets are 95 % intervals; with fewer than {LEAST} problems there are none. right: the share "
        "of right answers, where a failed sample counts as wrong. With one sample of each problem it has "
        "Wilson's interval, and to base the score test's (Tango 1998); all other intervals are from "
        f"{RESAMPLES} bootstrap resamples of the problems. where none failed: on the problems that every "
        "setting has an answer to.",
        "to base: accuracy minus base alone's, on the same problems; p: McNemar's exact test that both have "
        "the same. to the line: accuracy minus what sending each problem at random to the draft model alone "
        "or to the base model alone reaches in the same time: drawn if straight between the "
        "two, measured if mix was run, too, and the line is the highest through all three; without failures.",
        "seconds: of a sample, from the question to the end of the answer. over base, over draft, over "
        "base-whole: how many times as long that model alone takes, on the problems that both solved. A "
        "model alone ends its thinking itself; the pair also ends it when a step has the answer.",
    )
    return Table("Accuracy and time", notes, *_filled(columns, rows))


def cost(rows: Sequence[Row]) -> Table:
    columns: dict[str, Callable[[Row], str]] = {
        "setting": lambda row: row.setting,
        "tokens": lambda row: f"{row.tokens:.0f}",
        "written by draft": lambda row: _count(row.draft_decoded),
        "by base": lambda row: _count(row.base_decoded),
        "thrown away": lambda row: _count(row.thrown_away),
        "read by draft": lambda row: _read(row.draft_read, row.draft_prompt),
        "read by base": lambda row: _read(row.base_read, row.base_prompt),
        "TFLOP": lambda row: "" if row.tflop != row.tflop else f"{row.tflop:.2f}",
        "kept, %": lambda row: row.kept.shown(0, 100),
        "corrected": lambda row: f"{row.corrections:.1f}" if row.corrections else "",
        "prefills": lambda row: f"{row.prefills:.1f}" if row.prefills else "",
    }
    notes = (
        "Means over samples without failures. tokens: of the text. read: prompt tokens computed, and how "
        "many more came from the cache. TFLOP: 10^12 operations, 2 * parameters * tokens written or read; "
        "left out where a model's size is unknown. kept: drafted steps kept word for word. corrected: "
        "drafted tokens that the base model replaced. prefills: how often it read or scored a drafted text.",
    )
    return Table("Cost", notes, *_filled(columns, rows))


def projection(groups: Sequence[Group], speeds: Speeds) -> Table:
    lines = [
        [
            each.setting,
            *(seconds.shown(2) for seconds in (each.in_turns, each.overlapped)),
            *(times.shown() for times in (each.over_base_in_turns, each.over_base_overlapped)),
        ]
        for each in project(groups, speeds)
    ]
    lines += [
        [
            f"{each.setting}, token-level by {each.window}",
            each.seconds.shown(2), "", each.over_base.shown(), "",
        ]
        for each in token_level(groups, speeds)
    ]  # fmt: skip
    title = (
        f"At assumed speeds, not measured: {speeds.draft:g} ms a draft token, {speeds.base:g} ms a base "
        f"token, {speeds.prefill:g} ms a base prefill"
    )
    note = (
        "This run's requests, one sample at a time; a prefill gives a request's first token. The time lies "
        "between the two models one after the other (in turns) and the busier one alone (overlapped). "
        "Windows and what is thrown away are as measured; at these speeds they would differ. over base: how "
        "many times as long base alone takes. token-level by N: speculative decoding of single tokens in one "
        "engine, N drafted at a time, whose text would be the base model's own; computed from the tokens of "
        "the setting that are its first choice."
    )
    columns = ("setting", "in turns, s", "overlapped, s", "over base, in turns", "over base, overlapped")
    return Table(title, (note,), columns, lines)


def stops(rows: Sequence[Row]) -> Table:
    kinds = [kind for kind in STOPS if any(row.stops.get(kind) for row in rows)]
    lines = [[row.setting, *(_count(row.stops.get(kind, 0)) for kind in kinds)] for row in rows]
    return Table("Why chains ended", (), ["setting", *(STOPS[kind] for kind in kinds)], lines)


def judged(groups: Sequence[Group]) -> Table:
    columns = (
        "setting", "answers", "chains", "score", "lowest score", "regret", f"above {LARGE:g}, %",
        "highest regret", "corrected per 100",
    )  # fmt: skip
    lines = [
        [
            each.setting, "right" if each.right else "wrong", str(each.chains),
            *(_number(value) for value in (each.score, each.lowest_score)),
            *(_number(value) for value in (each.regret, 100 * each.large, each.highest, each.corrections)),
        ]
        for each in judgements(groups)
    ]  # fmt: skip
    note = (
        "A judge that knows has other figures where the answer is right than where it is wrong. score: of "
        "drafted steps, median; lowest score, highest regret: of a chain, median over chains. regret: of a "
        "token that was read, in nats, mean."
    )
    return Table("Scores and regrets, by right and wrong", (note,), columns, lines)


def problems(groups: Sequence[Group]) -> Table:
    """A line for each problem, a column for each setting."""
    ids = dict.fromkeys(problem for group in groups for problem in group.right)
    lines = [[problem, *(_mark(group, problem) for group in groups)] for problem in ids]
    note = "✓ right, ✗ wrong, F failed; with several samples of a problem, the share of right ones."
    return Table("Problems", (note,), ["problem", *(group.name for group in groups)], lines)


def failures(groups: Sequence[Group]) -> Table:
    lines = [
        [group.name, f"{sample.problem} ({sample.number})", sample.error or ""]
        for group in groups
        for sample in group.failures
    ]
    return Table("Failures", (), ("setting", "problem (sample)", "error"), lines)


def provenance(groups: Sequence[Group]) -> Table:
    runs = list({group.number: group.run for group in groups}.values())
    return Table(
        "Where this was measured", (), ("file", "", ""), [line for run in runs for line in _about(run)]
    )


def _about(run: Run) -> list[list[str]]:
    head, about = run.head, run.head.provenance
    source = f" of {head.data}" if head.data else ""
    facts = {
        "problems": f"{head.problems}{source}, {head.samples} x each, {head.concurrency} at a time",
        "problems' hash": head.problems_sha256[:16],
        "models": f"{head.draft_model} drafts for {head.base_model}",
        "machine": str(head.machine or "unknown: the file is of an earlier version"),
    }
    if about:
        launch = head.launch and ", ".join(f"{name}: {value}" for name, value in head.launch.items() if value)
        facts |= {
            "servers": "already running"
            if head.launch is None
            else f"started by eval; {launch or 'defaults'}",
            "started": about.started,
            "commit": about.commit or "unknown",
            "versions": ", ".join(f"{name} {version}" for name, version in about.versions.items()),
        }
    later: dict[str, list[Provenance]] = {}
    for sample in run.resumed:
        if session := sample.resumed:
            later.setdefault(session.started, []).append(session)
    for number, (started, sessions) in enumerate(later.items(), 2):
        changed = _changes(about, sessions[0])
        facts[f"session {number}"] = (
            f"{len(sessions)} samples, from {started}, {changed or 'nothing changed'}"
        )
    return [[run.name if not i else "", name, text] for i, (name, text) in enumerate(facts.items())]


def _changes(first: Provenance | None, later: Provenance) -> str:
    """What of the software is another one in a later session."""
    names = ("versions", "commit", "servers")
    changed = [name for name in names if first is None or getattr(first, name) != getattr(later, name)]
    return f"changed: {', '.join(changed)}" if changed else ""


def _samples(row: Row) -> str:
    missing = row.wanted - row.samples - row.failed
    counts = {"failed": row.failed, "to do": missing, "resumed": row.resumed}
    return ", ".join([str(row.samples), *(f"{count} {what}" for what, count in counts.items() if count)])


def _mark(group: Group, problem: str) -> str:
    if problem not in group.right:
        return ""
    if group.is_single:
        return MARKS[group.right[problem]] if problem in group.seconds else "F"
    return f"{group.right[problem]:.2g}"


def _count(value: float) -> str:
    return f"{value:.0f}" if value else ""


def _number(value: float) -> str:
    return "" if value != value else f"{value:.2f}"


def _read(computed: float, prompt: float) -> str:
    return f"{computed:.0f} + {prompt - computed:.0f}" if prompt else ""


def _filled(
    columns: dict[str, Callable[[Row], str]], rows: Sequence[Row]
) -> tuple[list[str], list[list[str]]]:
    """The columns that have a text in some line, and the lines."""
    texts = {name: [text(row) for row in rows] for name, text in columns.items()}
    filled = {name: column for name, column in texts.items() if any(column)}
    return list(filled), [list(line) for line in zip(*filled.values(), strict=True)]
