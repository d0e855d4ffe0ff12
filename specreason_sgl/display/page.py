"""The web page: asks a server and shows traces. With traces embedded it needs no server."""

from collections.abc import Sequence
from pathlib import Path

from specreason_sgl.reasoning.trace import Trace

_NO_TRACES = '<script type="application/json" id="traces">[]</script>'


def page() -> str:
    """The page as served: HTML with a form that asks the server it came from."""
    return Path(__file__).with_name("page.html").read_text(encoding="utf-8")


def as_html(traces: Sequence[Trace]) -> str:
    """The page with traces embedded, as one self-contained file."""
    data = f"[{','.join(trace.to_json() for trace in traces)}]"
    data = data.replace("<", "\\u003c")  # an escaped "<" cannot end the script element
    return page().replace(_NO_TRACES, _NO_TRACES.replace("[]", data), 1)
