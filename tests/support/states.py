"""Program states on a tokenizer alone, without a server, and the prompt that they would send."""

from sglang.lang.interpreter import ProgramState, StreamExecutor

from specreason_sgl.lang.chat import TokenizerChatTemplate


class Backend:
    """Just enough of a backend for a state to hold text."""

    def __init__(self, tokenizer, name="test", settings=None):
        self.tokenizer = tokenizer
        self.chat_template = TokenizerChatTemplate(tokenizer, name, settings)

    def get_chat_template(self):
        return self.chat_template

    def end_program(self, s):
        pass


def new_state(tokenizer, settings=None) -> ProgramState:
    backend = Backend(tokenizer, settings=settings)
    return ProgramState(StreamExecutor(backend, {}, None, chat_template=None, stream=False))


def sent(state: ProgramState) -> list[int]:
    state.sync()
    return state.stream_executor.chat_template.encode(state.stream_executor)
