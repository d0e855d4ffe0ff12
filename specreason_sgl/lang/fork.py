"""`fork_to`: the same conversation on another runtime."""

from sglang.lang.interpreter import ProgramState, StreamExecutor

from specreason_sgl.lang.chat import THINK_OPEN, exact_messages
from specreason_sgl.lang.endpoint import Endpoint


def fork_to(state: ProgramState, endpoint: Endpoint, stream: bool | None = None) -> ProgramState:
    """A copy of a state that goes on on another runtime, in that model's chat template.

    Waits for the state, like `fork`. Finished messages and an unfinished turn are carried over, with the
    variables so far; with equal templates `text()` is equal byte for byte. Where one model's template opens
    its thinking (`<think>`) in the generation prompt and the other model writes it itself, the unfinished
    turn is adapted.

    Args:
        state: where the conversation is now. It is not changed.
        endpoint: the runtime to go on.
        stream: whether the copy's text can be read as it comes (`text_iter`); default: as the state's can.

    Returns:
        A new state. Like any state of a program it ends by itself.

    Raises:
        ConfigError: there is an image in the conversation.
        TemplateError: the state has text between roles, which no template can render.
    """
    source = state.stream_executor
    source.sync()
    there = StreamExecutor(
        endpoint,
        source.arguments,
        source.default_sampling_para,
        chat_template=None,
        stream=source.stream if stream is None else stream,
    )
    there.variables = dict(source.variables)
    there.messages_ = list(source.messages_)
    there.images_ = list(source.images_)
    there.cur_role = source.cur_role
    if getattr(source.text_, "error", None):
        there.text_ = source.text_
    else:
        _write_text(source, there)
    there.fork_start_text_pos = len(there.text_)
    return ProgramState(there)


def _write_text(source: StreamExecutor, there: StreamExecutor) -> None:
    messages, tail = exact_messages(source)
    template = there.chat_template
    for i, message in enumerate(messages):
        prefix, suffix = template.get_prefix_and_suffix(message["role"], messages[:i])
        there.text_ += prefix + message["content"] + suffix
    if source.cur_role is not None:
        there.text_ += template.get_prefix_and_suffix(source.cur_role, messages)[0]
        there.cur_role_begin_pos = len(there.text_)
    if source.cur_role == "assistant":
        tail = _adapt_thinking(tail, source.chat_template, template)
    there.text_ += tail


def _adapt_thinking(turn: str, mine, theirs) -> str:
    if not (turn.startswith(THINK_OPEN) or getattr(mine, "opens_thinking", False)):
        return turn
    if getattr(mine, "opens_thinking", False) and theirs.opens_thinking:
        return turn
    return theirs.thinking_prefix + turn.removeprefix(THINK_OPEN).removeprefix("\n")
