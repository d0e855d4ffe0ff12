"""A run in the terminal while it goes on: texts as they come, corrections in line."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.segment import Segment
from rich.text import Text

from specreason_sgl.display.terminal import VISIBLE, print_step, step_text
from specreason_sgl.reasoning.live import TextPart
from specreason_sgl.reasoning.trace import Step


@contextmanager
def watching(console: Console) -> Iterator[dict[str, Any]]:
    """Show a run to the end of the block; gives the callbacks for `solve`.

    On a terminal what is being written stands below the finished steps: a step, in green what is drafted and
    not judged yet, or the answer. Elsewhere each step is printed when it is finished.
    """
    if not console.is_terminal:
        yield {"on_step": lambda step: print_step(console, step)}
        return
    answer = Text.assemble(("answer", "bold"), "\n")
    with Live(console=console, transient=True, auto_refresh=False) as live:

        def on_draft(draft: str, step: Step | None) -> None:
            live.update(_LastLines(_unfinished(draft, step)), refresh=True)

        def on_text(_part: TextPart, text: str) -> None:
            live.update(_LastLines(answer.append(text.translate(VISIBLE))), refresh=True)

        def on_step(step: Step) -> None:
            live.update("")
            print_step(console, step)

        yield {"on_draft": on_draft, "on_text": on_text, "on_step": on_step}


def _unfinished(draft: str, step: Step | None) -> Text:
    """The unfinished step and the draft beyond it."""
    by_base = step is not None and step.author == "base"
    text = Text.assemble(("base", "blue") if by_base else ("draft", "green"), "  writing\n")
    if step:
        text.append(step_text(step, regret=False, colours=True))
    return text.append((draft if step else draft.lstrip()).translate(VISIBLE), "green")


class _LastLines:
    """A text; of a long one the last lines that fit on the screen."""

    def __init__(self, text: Text):
        self.text = text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self.text, options, pad=False)
        for line in lines[-max(console.height - 2, 1) :]:
            yield from line
            yield Segment.line()
