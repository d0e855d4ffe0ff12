"""The web page: asks a server and shows traces. With traces embedded it needs no server.

It is one file with everything in it, put together from the files in `web`: the parts of the script, which
share one scope, the style sheet, and KaTeX 0.16.47 (MIT licence) with the fonts that it needs most.
"""

import base64
import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from specreason_sgl.reasoning.knobs import JUDGE, Knob, knobs_of
from specreason_sgl.reasoning.plain import KNOBS
from specreason_sgl.reasoning.repair import NUMERIC, REPAIRS
from specreason_sgl.reasoning.trace import Trace

WEB = Path(__file__).with_name("web")
SCRIPTS = (
    "katex/katex.min.js", "core.js", "server.js", "trace.js", "math.js", "view.js", "steps.js", "race.js",
    "timeline.js", "asking.js", "page.js",
)  # fmt: skip
_NO_TRACES = '<script type="application/json" id="traces">[]</script>'
_FONT_FACE = re.compile(r"@font-face\{[^}]*?src:url\((?P<file>fonts/[\w-]+\.woff2)\)[^}]*\}")
_SOURCES = re.compile(r"src:[^}]*")


def page() -> str:
    """The page as served: HTML with a form that asks the server it came from, and a recorded example."""
    return _with_traces(_example(), ' data-kind="example"')


def example() -> list[Trace]:
    """Two recorded runs on one problem: a pair with corrections, and its base model alone."""
    return [Trace.from_json(line) for line in _example()]


def _example() -> list[str]:
    return _read("example.jsonl").splitlines()


def as_html(traces: Sequence[Trace]) -> str:
    """The page with traces embedded, as one self-contained file."""
    return _with_traces([trace.to_json() for trace in traces])


def _with_traces(traces: Sequence[str], attributes: str = "") -> str:
    data = f"[{','.join(traces)}]".replace("<", "\\u003c")  # an escaped "<" cannot end the script element
    head, tail = _empty_page().split(_NO_TRACES)
    return head + _NO_TRACES.replace(">[]", f"{attributes}>{data}") + tail


@cache
def _empty_page() -> str:
    style = _FONT_FACE.sub(_embed_font, _read("katex/katex.min.css")) + _read("page.css")
    scripts = "\n".join(map(_read, SCRIPTS))
    html = _read("page.html").replace("{style}", style).replace("{scripts}", scripts)
    return html.replace("{declared}", json.dumps(_declared()).replace("<", "\\u003c"))


def _declared() -> dict[str, Any]:
    """The knobs that the page offers, the names of the repairs by their kind in a trace, and which tokens are
    numeric."""
    knobs = [knob for knob in KNOBS.values() if "page" in knob.places]
    knobs.sort(key=lambda knob: knob.panel != JUDGE)
    return {
        "knobs": [*map(_field, knobs)],
        "repairs": {type(repair).__name__: name for name, repair in REPAIRS.items()},
        "numeric": NUMERIC.pattern,
    }


def _field(knob: Knob) -> dict[str, Any]:
    """What the page's field of a knob is made of; `repairs` are those that it is for, null: all."""
    repairs = [
        name
        for name, repair in REPAIRS.items()
        if knob.name in knobs_of(type(repair)) or (knob.scope == "judging" and not repair.reads_tokens)
    ]
    return {
        "name": knob.name, "help": knob.help, "words": knob.words, "scope": knob.scope,
        "repairs": repairs or None, "step": 1 if knob.kind is int else "any",
        "min": knob.limits.get("ge"), "max": knob.limits.get("le"),
    }  # fmt: skip


def _read(name: str) -> str:
    return (WEB / name).read_text(encoding="utf-8")


def _embed_font(face: re.Match[str]) -> str:
    """A font of KaTeX's as a part of the style sheet; nothing for one that is not here."""
    file = WEB / "katex" / face["file"]
    if not file.exists():
        return ""
    data = base64.b64encode(file.read_bytes()).decode()
    return _SOURCES.sub(f'src:url(data:font/woff2;base64,{data}) format("woff2")', face[0])
