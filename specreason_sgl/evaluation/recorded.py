"""Work on many items whose results are recorded, so that an interrupted run continues."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

from specreason_sgl.errors import SpecReasonError
from specreason_sgl.files import Head, Line, Record
from specreason_sgl.lang.endpoint import Endpoint
from specreason_sgl.reasoning.batch import run_batch
from specreason_sgl.reasoning.config import SpecReasonConfig
from specreason_sgl.reasoning.trace import model_name


class _Item(Protocol):
    @property
    def id(self) -> str: ...


ItemT = TypeVar("ItemT", bound=_Item)
LineT = TypeVar("LineT", bound=Line)


class PairHead(Head, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first line of a record of what a pair did with problems.

    Attributes:
        data: where the problems come from.
        draft, base: the models' names.
        instruction, template: of the prompt.
    """

    data: str
    draft: str
    base: str
    instruction: str
    template: dict[str, Any] | None

    @classmethod
    def of(cls, draft: Endpoint, base: Endpoint, config: SpecReasonConfig, **others: Any) -> Self:
        """The head for these runtimes and this prompt; `others` are the rest of its fields."""
        return cls(
            draft=model_name(draft.get_model_name()),
            base=model_name(base.get_model_name()),
            instruction=config.instruction,
            template=dict(config.template) if config.template else None,
            **others,
        )


def work_recorded(
    work: Callable[[ItemT], LineT],
    items: Sequence[ItemT],
    path: Path,
    head: Head,
    line: type[LineT],
    *,
    endpoints: Sequence[Endpoint],
    concurrency: int,
    progress_bar: bool,
) -> list[LineT]:
    """Do the work of each item that a record lacks, and record it.

    Args:
        work: gives an item's line, whose key is the item's id.
        items: with different ids.
        path, head: of the record.
        line: the type of its lines.
        endpoints: the runtimes, whose requests an interruption aborts.
        concurrency: items at once.
        progress_bar: draw one on standard error.

    Returns:
        Each item's line, in order.

    Raises:
        ConfigError: the record has another head.
        SpecReasonError: the work of an item failed; what was done before is in the record.
    """
    with Record(path, head, line) as record:

        def keep(_: int, result: LineT | SpecReasonError) -> None:
            if isinstance(result, SpecReasonError):
                raise result
            record.add(result)

        todo = [item for item in items if item.id not in record.done]
        run_batch(work, todo, endpoints, concurrency, progress_bar, keep)
        return [record.done[item.id] for item in items]
