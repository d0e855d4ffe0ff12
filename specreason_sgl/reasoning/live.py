"""`Live`: what a watcher sees between two steps of a run."""

import threading
from collections.abc import Callable
from typing import Literal

from msgspec.structs import replace

from specreason_sgl.reasoning.trace import Author, Step

TextPart = Literal["reasoning", "answer"]
OnText = Callable[[TextPart, str], None]
OnDraft = Callable[[str, Step | None], None]


class Live:
    """Drafted text that is not judged yet, and the unfinished step that it continues.

    Args:
        on_draft: called with both whenever one of them changes, from the thread that changed it.
    """

    def __init__(self, on_draft: OnDraft):
        self._on_draft = on_draft
        self._lock = threading.Lock()
        self._draft = ""
        self._open_step: Step | None = None

    def drafted(self, text: str, instead_of: str = "") -> None:
        """The draft model wrote a text, which replaces `instead_of` at the end of what it wrote before."""
        with self._lock:
            self._draft = self._draft.removesuffix(instead_of) + text
            self._on_draft(self._draft, self._open_step)

    def written(self, text: str) -> None:
        """The base model wrote a text of the step itself; what was drafted there is dropped."""
        with self._lock:
            step = self._open_step or Step("", "base", None, 0)
            author: Author = "base" if step.author == "base" else "both"
            self._draft, self._open_step = "", replace(step, text=step.text + text, author=author)
            self._on_draft("", self._open_step)

    def advanced(self, text: str, open_step: Step | None, is_drafting: bool) -> None:
        """The chain of thought grew.

        Args:
            text: what was appended.
            open_step: its unfinished step.
            is_drafting: whether the draft model writes on after this text; if not, what it drafted is
                dropped.
        """
        with self._lock:
            self._draft = self._draft.removeprefix(text) if is_drafting else ""
            self._open_step = open_step
            self._on_draft(self._draft, open_step)
