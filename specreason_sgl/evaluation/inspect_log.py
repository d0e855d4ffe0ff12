"""Runs as logs that inspect_ai's viewer opens, one for each setting: version 2 of its format, as JSON.

inspect_ai itself is not needed: it is usually installed in another environment than SGLang.
"""

import hashlib
import math
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from specreason_sgl.evaluation import groups as counts
from specreason_sgl.evaluation.groups import Group
from specreason_sgl.evaluation.records import Sample
from specreason_sgl.reasoning.trace import Author, Correction, Side, Step, Trace, model_name

Document = dict[str, Any]
SCORE = "right"
_SIDES: tuple[Side, ...] = ("draft", "base")


def write_logs(groups: Sequence[Group], folder: Path) -> None:
    """Write a log for each setting; the folder is made if it is missing."""
    folder.mkdir(exist_ok=True)
    for group in groups:
        peers = [other for other in groups if other.run is group.run]
        traces = {sample.problem: sample.trace for peer in peers for sample in peer.samples if sample.trace}
        log = eval_log(group, {problem: trace.question for problem, trace in traces.items()})
        about = log["eval"]
        # The viewer lists only files that are named like this.
        name = f"{about['created'][:19].replace(':', '-')}_{_slug(group.name)}_{about['task_id']}.json"
        (folder / name).write_bytes(msgspec.json.encode(log))


def eval_log(group: Group, questions: dict[str, str]) -> Document:
    """The log of a setting, as plain data.

    Args:
        questions: by problem; a failed sample does not have its own.
    """
    samples = [*group.samples, *group.failures]
    logged = [_sample(sample, questions) for sample in samples]
    return {
        "version": 2,
        "status": "success" if len(samples) >= group.wanted else "cancelled",
        "eval": _about(group),
        "plan": {"name": group.mode},
        "results": {
            "total_samples": group.wanted,
            "completed_samples": len(group.samples),
            "scores": [{"name": SCORE, "scorer": SCORE, "metrics": _accuracy(group)}] if samples else [],
        },
        "stats": {"model_usage": _summed(sample["model_usage"] for sample in logged)},
        "samples": logged,
    }


def _about(group: Group) -> Document:
    head, session = group.run.head, group.run.head.provenance
    written = datetime.fromtimestamp(group.run.path.stat().st_mtime, UTC).isoformat(timespec="seconds")
    created = session.started if session else written
    run = _id(group.run.path.resolve(), created)
    return {
        "run_id": run,
        "eval_id": _id(run, group.name),
        "task_id": _id(run, group.name),
        "created": created,
        "task": group.name,
        "task_args": group.config,
        "dataset": {"name": Path(head.data).stem, "samples": head.problems, "sample_ids": list(head.ids)},
        "model": _model(group),
        "config": {"epochs": head.samples},
        "packages": session.versions if session else {},
        "metadata": {
            "at a time": head.concurrency,
            "machine": str(head.machine or "unknown"),
            "commit": session.commit if session else None,
            "launch": head.launch,
        },
    }


def _model(group: Group) -> str:
    head = group.run.head
    alone = {"draft": head.draft_model, "base": head.base_model, "base-whole": head.base_model}
    return alone.get(group.mode, f"{head.draft_model} + {head.base_model}")


def _accuracy(group: Group) -> Document:
    """Failures count as wrong; a problem's samples count together as much as another's."""
    right = list(group.right.values())
    share = sum(right) / len(right)
    variance = sum((value - share) ** 2 for value in right) / max(len(right) - 1, 1)
    metrics = {"accuracy": share, "stderr": math.sqrt(variance / len(right))}
    return {name: {"name": name, "value": value} for name, value in metrics.items()}


def _sample(sample: Sample, questions: dict[str, str]) -> Document:
    trace = sample.trace
    score = {"value": "C" if sample.right else "I", "answer": trace.answer if trace else None}
    fields: Document = {
        "id": sample.problem,
        "epoch": sample.number + 1,
        "input": questions.get(sample.problem, sample.problem),
        "target": sample.expected,
        "scores": {SCORE: score},
        "model_usage": {},
    }
    if error := sample.error:
        fields["error"] = {"message": error, "traceback": error, "traceback_ansi": error}
    return fields | _of_trace(trace) if trace else fields


def _of_trace(trace: Trace) -> Document:
    """What a trace adds to its sample."""
    usage = {side: _usage(trace, side) for side in _SIDES if counts.requests(trace, side)}
    answer = _message(trace, trace.answer, "draft" if trace.mode == "draft" else "base")
    stop = "max_tokens" if trace.answer_end == "length" else "stop"
    return {
        "messages": [
            {"role": "user", "content": trace.question},
            *(_message(trace, step.text, step.author, **_judged(step)) for step in trace.steps),
            answer,
        ],
        "output": {"model": answer["model"], "choices": [{"message": answer, "stop_reason": stop}]},
        "metadata": {
            "stop": trace.stop,
            "tokens": trace.tokens,
            "thrown away": trace.wasted_tokens,
            "corrections": trace.corrections,
            "rewritten": trace.rewritten,
            "prefills": counts.prefills(trace),
        },
        "model_usage": {_writer(trace, side): tokens for side, tokens in usage.items()},
        "role_usage": usage,
        "total_time": trace.seconds,
        "working_time": trace.seconds,
    }


def _message(trace: Trace, text: str, author: Author, **facts: Any) -> Document:
    about = {"written by": author, **facts}
    model = _writer(trace, author)
    return {
        "role": "assistant", "content": text, "source": "generate", "model": model, "metadata": about
    }  # fmt: skip


def _judged(step: Step) -> Document:
    """What became of a step's draft; without what is empty."""
    facts = {
        "tokens": step.tokens,
        "drafted tokens": step.draft_tokens,
        "score": step.score,
        "rejected": step.rejected,
        "not drafted": step.undrafted_reason,
        "corrections": "; ".join(map(_shown, step.corrections)),
    }
    return {name: fact for name, fact in facts.items() if fact not in (None, "")}


def _shown(correction: Correction) -> str:
    """As the terminal draws it, with the regret in nats."""
    return f"[-{correction.drafted}-]{{+{correction.text}+}} {correction.regret:.2f}"


def _writer(trace: Trace, author: Author) -> str:
    models = {"draft": trace.draft_model, "base": trace.base_model}
    names = {side: model_name(model) for side, model in models.items() if model}
    return names.get(author) or " + ".join(names.values())


def _usage(trace: Trace, side: Side) -> Document:
    """In inspect's terms, where input tokens are those that are not from a cache."""
    read, written = counts.read(trace, side), counts.decoded(trace, side)
    cached = counts.prompts(trace, side) - read
    return {
        "input_tokens": read,
        "input_tokens_cache_read": cached,
        "output_tokens": written,
        "total_tokens": read + cached + written,
    }


def _summed(usages: Iterable[dict[str, dict[str, int]]]) -> dict[str, dict[str, int]]:
    total: dict[str, dict[str, int]] = {}
    for usage in usages:
        for model, tokens in usage.items():
            so_far = total.setdefault(model, dict.fromkeys(tokens, 0))
            total[model] = {name: so_far[name] + count for name, count in tokens.items()}
    return total


def _id(*parts: object) -> str:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:22]


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.=]+", "-", text).strip("-")
