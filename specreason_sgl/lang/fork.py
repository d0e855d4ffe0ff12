"""`fork_to`: the same conversation on another runtime."""

from sglang.lang.chat_template import ChatTemplate
from sglang.lang.interpreter import ProgramState, StreamExecutor

from specreason_sgl.lang.chat import THINK_OPEN, TokenizerChatTemplate, check_has_no_images, exact_messages
from specreason_sgl.lang.endpoint import Endpoint
from specreason_sgl.lang.sglang_fixes import failure_of


def fork_to(
    state: ProgramState, endpoint: Endpoint, stream: bool | None = None, use_thread: bool = True
) -> ProgramState:
    """A copy of a state that continues on another runtime, in that model's chat template.

    Waits for the state, like `fork`. Finished messages and an unfinished turn are carried over, with the
    variables so far; with equal templates `text()` is equal byte for byte. Where one model's template opens
    its thinking (`<think>`) in the generation prompt and the other model writes it itself, the unfinished
    turn is adapted.

    Args:
        state: where the conversation is now. It is not changed.
        endpoint: the runtime to continue on.
        stream: whether the copy's text can be read as it comes (`text_iter`); default: the state's setting.
        use_thread: whether the copy works in a thread of its own, beside the program; otherwise the program
            waits for each expression (`use_thread` of `SglFunction.run`).

    Returns:
        A new state. Like any state of a program it ends when nothing refers to it.

    Raises:
        ConfigError: there is an image in the conversation.
        TemplateError: the state has text between roles, which no template can render.
    """
    source = state.stream_executor
    source.sync()
    check_has_no_images(source)
    fork = StreamExecutor(
        endpoint,
        source.arguments,
        source.default_sampling_para,
        chat_template=None,
        stream=source.stream if stream is None else stream,
        use_thread=use_thread,
    )
    fork.variables = dict(source.variables)
    fork.messages_ = list(source.messages_)
    fork.cur_role = source.cur_role
    if failure_of(source) or source.chat_template is fork.chat_template:
        fork.text_, fork.cur_role_begin_pos = source.text_, source.cur_role_begin_pos
    else:
        _write_text(source, fork)
    fork.fork_start_text_pos = len(fork.text_)
    return ProgramState(fork)


def _write_text(source: StreamExecutor, fork: StreamExecutor) -> None:
    """The source's conversation, as the fork's template writes it."""
    messages, turn = exact_messages(source)
    template = fork.chat_template
    for i, message in enumerate(messages):
        prefix, suffix = template.get_prefix_and_suffix(message["role"], messages[:i])
        fork.text_ += prefix + message["content"] + suffix
    if source.cur_role is not None:
        fork.text_ += template.get_prefix_and_suffix(source.cur_role, messages)[0]
        fork.cur_role_begin_pos = len(fork.text_)
    if source.cur_role == "assistant":
        turn = _adapt_thinking(turn, source.chat_template, template)
    fork.text_ += turn


def _adapt_thinking(turn: str, source: ChatTemplate, target: TokenizerChatTemplate) -> str:
    """An unfinished turn with `<think>` in it where the target's template does not write it itself."""
    source_opens = getattr(source, "opens_thinking", False)
    if not (source_opens or turn.startswith(THINK_OPEN)):
        return turn
    if source_opens and target.opens_thinking:
        return turn
    return target.thinking_prefix + turn.removeprefix(THINK_OPEN).removeprefix("\n")
