"""Stop texts: holding a server to them, and what a stream may show before one is complete."""

from collections.abc import Iterable
from typing import Any

Stops = str | Iterable[str] | None


def cut_at_stop(answer: dict[str, Any], stops: Stops) -> None:
    """Drop, in place, what an answer has from a stop text on: nobody asked for it."""
    for stop in _as_list(stops):
        text, matched, _ = answer["text"].partition(stop)
        if matched:
            answer["text"] = text
            answer["meta_info"]["finish_reason"] = {"type": "stop", "matched": stop}


def settled(text: str, stops: Stops) -> str:
    """A stream's text so far, less an ending that may turn out to begin a stop text: the server would then
    drop it."""
    held_back = (
        n for stop in _as_list(stops) for n in range(len(stop) - 1, 0, -1) if text.endswith(stop[:n])
    )
    return text[: len(text) - max(held_back, default=0)]


def _as_list(stops: Stops) -> list[str]:
    return [stops] if isinstance(stops, str) else list(stops or ())
