"""How a drafted step is judged."""

from sglang.lang.interpreter import ProgramState

from specreason_sgl.lang.score import Read, score

# Stands right after the step, inside the base model's own turn: a turn of the user's would make templates of
# thinking models drop or close the thinking, and lose the cached prefix. Kept short, since it is computed
# anew for every step.
QUESTION = "\n\nScore of the last step, from 0 (wrong) to 9 (correct and useful): "


def utility_score(state: ProgramState, step: str, read: Read) -> ProgramState:
    """Ask the base model for the utility score of a step (SpecReason, section 4.1): one token.

    Args:
        state: the base model's, the chain of thought before the step in it. It is not changed.
        step: the drafted text.
        read: `greedy` or `average`.

    Returns:
        A fork of the state; its `get_meta_info("score")` holds the result (see `lang.score`).
    """
    judge = state.fork(1)[0]
    judge += step + QUESTION
    judge += score("score", read=read)
    return judge
