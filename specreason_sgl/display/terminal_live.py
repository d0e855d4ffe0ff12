"""A run in the terminal while it goes on: the draft as it comes, corrections in line."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.segment import Segment
from rich.text import Text

from specreason_sgl.display.terminal import VISIBLE, print_step, step_text
from specreason_sgl.reasoning.trace import Step


@contextmanager
def watching(console: Console) -> Iterator[dict[str, Any]]:
    """Show a run to the end of the block; gives the callbacks for `solve`.

    On a terminal the step that is being written stands below the finished ones: in green what is drafted and
    not judged yet. Elsewhere each step is printed when it is finished.
    """
    if not console.is_terminal:
        yield {"on_step": lambda step: print_step(console, step)}
        return
    with Live(console=console, transient=True, auto_refresh=False) as live:

        def on_draft(draft: str, step: Step | None) -> None:
            live.update(_Writing(draft, step), refresh=True)

        def on_step(step: Step) -> None:
            live.update("")
            print_step(console, step)

        yield {"on_draft": on_draft, "on_step": on_step}


class _Writing:
    """The unfinished step and the draft beyond it; of a long one the last lines that fit on the screen."""

    def __init__(self, draft: str, step: Step | None):
        self.text = Text.assemble(("draft", "green"), "  writing\n")
        if step:
            self.text.append(step_text(step, regret=False, colours=True))
        self.text.append((draft if step else draft.lstrip()).translate(VISIBLE), "green")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self.text, options, pad=False)
        for line in lines[-max(console.height - 2, 1) :]:
            yield from line
            yield Segment.line()
