"""`Endpoint`: SGLang's `RuntimeEndpoint` with deadlines, aborts, clear errors and the model's own template.

Written against sglang 0.5.23's `sglang.lang.backend.runtime_endpoint` and `sglang.lang.interpreter`.
"""

import copy
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from sglang.lang.backend.base_backend import BaseBackend
from sglang.lang.backend.runtime_endpoint import RuntimeEndpoint
from sglang.lang.choices import ChoicesDecision, ChoicesSamplingMethod
from sglang.lang.interpreter import ProgramState, StreamExecutor, global_config  # its own module has moved
from sglang.lang.ir import SglSamplingParams

from specreason_sgl.errors import ConfigError
from specreason_sgl.lang.answers import each, embedding_of, reading, usage
from specreason_sgl.lang.chat import TokenizerChatTemplate
from specreason_sgl.lang.http import Http
from specreason_sgl.lang.memory import Memory
from specreason_sgl.lang.methods import EndpointMethod
from specreason_sgl.lang.requests import Limit, OnRequest, Requests, is_batch
from specreason_sgl.lang.server import Running, get_context_length, read_model_info, read_server_info
from specreason_sgl.lang.sglang_fixes import (
    drop_first_logprob,
    end_forgotten_states_at_exit,
    errors_to,
    mark_ended,
)
from specreason_sgl.lang.stops import cut_at_stop
from specreason_sgl.lang.streams import stream_pieces
from specreason_sgl.lang.tokenizer import check_tokenizer, load_tokenizer, read_chat_template

RETRY_FOR = 60.0  # seconds: a small model's server restarts in that time
FLUSH_TIMEOUT = 20.0  # seconds


class Endpoint(RuntimeEndpoint):
    """A running SGLang server (or an `sglang-router` in front of several), to run programs on.

    Every prompt is sent as token ids, rendered by the model's own chat template (see `lang.chat`).

    Args:
        server: for example `http://127.0.0.1:30000`, or `pair.base` of `launch_pair`, which brings its key.
        api_key: of the server at a URL, if it has one.
        timeout: deadline of each request, in seconds; a request that misses it is aborted on the server.
        tokenizer: a folder or a Hugging Face name; default: what the server reports. Needed where the
            server names a folder of another machine.
        retry_for: seconds for which a request is sent again, with growing pauses, where the server is gone
            or too busy; within the timeout. The earlier attempt is aborted, and a stream continues where it
            broke off. A request that makes a running server fail is sent at most 3 times.
        template: keyword arguments for the chat template, such as `{"enable_thinking": False}` for Qwen3
            (`chat_template_kwargs` in OpenAI-style APIs).
        trust_remote_code: whether code that comes with the tokenizer may run here.
        on_request: called with a `RequestRecord` (see `lang.requests`) when a generation request has ended,
            answered or not, in the thread of the request.

    Attributes:
        context_length: tokens of a prompt and what is generated on it; None where the server does not say.
        requests: the requests in flight.

    Raises:
        ServerUnreachable: nobody answers there.
        NotSGLang: what answers there is not an SGLang server.
        ConfigError: a setting is not valid, the tokenizer cannot be loaded, or it is not the server's.

    A call that fails inside a state's thread raises where the program reads its result: `s["name"]`,
    `s.get_meta_info("name")`; `s.error()` returns it. Errors also cross `fork`.

    It can be pickled: in another process it is the same server over connections of its own, without
    `on_request`.
    """

    def __init__(
        self,
        server: str | Running,
        api_key: str | None = None,
        *,
        timeout: float = 600.0,
        tokenizer: str | None = None,
        retry_for: float = RETRY_FOR,
        template: Mapping[str, Any] | None = None,
        trust_remote_code: bool = False,
        on_request: OnRequest | None = None,
    ):
        BaseBackend.__init__(self)  # not RuntimeEndpoint's, which connects in its own way
        if not timeout > 0:
            raise ConfigError(f"timeout must be a positive number of seconds, got {timeout}")
        if not isinstance(server, str):
            api_key, server = server.api_key, server.url
        self._options: dict[str, Any] = {
            "api_key": api_key, "timeout": timeout, "tokenizer": tokenizer, "retry_for": retry_for,
            "trust_remote_code": trust_remote_code,
        }  # fmt: skip
        self._http = Http(server, api_key, timeout)
        self.base_url, self.api_key, self.verify = self._http.url, api_key, None
        self.requests = Requests(self._http, timeout, retry_for, on_request)
        self._templated = Memory(16)  # copies of this endpoint, by their template's arguments
        self._sampling: Mapping[str, Any] = {}

        self.model_info = read_model_info(self._http)
        self._http.model_name = self.get_model_name()
        server_info = read_server_info(self._http)
        self.context_length = get_context_length(server_info)
        self.tokenizer = load_tokenizer(
            tokenizer, self.model_info, server_info, self.base_url, trust_remote_code
        )
        check_tokenizer(self.tokenizer, self._http)
        if (source := read_chat_template(server_info, self.base_url)) is not None:
            self.tokenizer.chat_template = source
        self.chat_template = TokenizerChatTemplate(self.tokenizer, self.get_model_name(), template)
        end_forgotten_states_at_exit(Endpoint)

    # What SGLang's interpreter calls.

    def generate(
        self, s: StreamExecutor, sampling_params: SglSamplingParams
    ) -> tuple[str | list[str], dict[str, Any]]:
        with errors_to(s) as failed:
            if failed:
                return "", {}
            answer = self.ask(s.sid, self._payload(s, sampling_params))
            samples = each(answer)
            for sample in samples:
                cut_at_stop(sample, sampling_params.stop)
            texts = [sample["text"] for sample in samples]
            return texts if isinstance(answer, list) else texts[0], samples[0]["meta_info"]
        return "", {}

    def generate_stream(
        self, s: StreamExecutor, sampling_params: SglSamplingParams
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        def make_payload(received: int) -> dict[str, Any]:
            payload = self._payload(s, sampling_params)
            payload["sampling_params"]["max_new_tokens"] -= received
            if interval := getattr(s, "stream_interval", None):
                payload["sampling_params"]["stream_interval"] = interval
            return self._fitted(payload)

        with errors_to(s) as failed:
            if not failed:
                on_piece = getattr(s, "on_piece", None)
                for piece in stream_pieces(self.requests, s.sid, make_payload, sampling_params):
                    yield piece
                    if on_piece:
                        on_piece(*piece)

    def select(
        self,
        s: StreamExecutor,
        choices: list[str],
        temperature: float,
        choices_method: ChoicesSamplingMethod,
    ) -> ChoicesDecision:
        with errors_to(s) as failed:
            if failed:
                return ChoicesDecision("")
            if isinstance(choices_method, EndpointMethod):
                return choices_method.ask(self, s, choices)
            return self.select_by_sequences(s, choices, choices_method, temperature)
        return ChoicesDecision("")

    def commit_lazy_operations(self, s: StreamExecutor) -> None:
        with errors_to(s) as failed:
            if not failed:
                self._generate_http_request(s, {"text": s.text_, "sampling_params": {"max_new_tokens": 0}})

    fill_image = commit_lazy_operations

    def cache_prefix(self, prefix_str: str) -> None:
        ids = self.tokenizer.encode(prefix_str)
        self.ask("", {"input_ids": ids, "sampling_params": {"max_new_tokens": 0}})

    def end_program(self, s: StreamExecutor) -> None:
        mark_ended(s)
        self.requests.forget(s.sid)

    # What this package's expressions call.

    def ask(self, sid: str, payload: dict[str, Any], path: str = "/generate") -> Any:
        """Send a request for a state, and wait for its answer.

        Args:
            sid: the state's id, `StreamExecutor.sid`; empty for none.
            payload: of SGLang's native API, with `input_ids`. Its `max_new_tokens` is lowered to what fits.

        Returns:
            The parsed and checked answer, a list for several prompts or samples.

        Raises:
            ServerError: there is no answer, or the prompt does not fit into the context.
        """
        return self.requests.answer(sid, self._fitted(payload), path)

    def select_by_sequences(
        self, s: StreamExecutor, choices: list[str], method: ChoicesSamplingMethod, temperature: float = 0.0
    ) -> ChoicesDecision:
        """SGLang's own `select`: one sequence for each choice.

        Raises:
            ServerError: it failed.
        """
        with reading(self.base_url):
            return super().select(s, choices, temperature, method)

    def classify(
        self, s: ProgramState | StreamExecutor, extra: str = ""
    ) -> tuple[list[float], dict[str, Any]]:
        """What a reward or classification model says of a state's text, `extra` after it.

        Returns:
            The values of its head for the last token, and the request's counts as in `lang.score`.

        Raises:
            ServerError: the server does not serve such a model (`sglang serve --is-embedding`).
        """
        if isinstance(s, ProgramState):
            s = s.stream_executor
            s.sync()
        answer = self.ask(s.sid, {"input_ids": self.chat_template.encode(s, extra)}, "/classify")
        return embedding_of(answer), usage(answer["meta_info"])

    # What programs call beside the language.

    def abort(self, state: ProgramState | None = None) -> int:
        """End this endpoint's requests on the server: those of a state, or, without one, all in flight.

        Returns:
            How many requests were told to end by this call. They raise `RequestAborted`, and so do further
            requests of the state.
        """
        return self.requests.abort(state)

    def limit(self, state: ProgramState, deadline: float = math.inf, retry_for: float = math.inf) -> None:
        """Give a state's requests a common deadline, beside the timeout of each.

        Args:
            state: a state on this endpoint.
            deadline: on the clock of `time.monotonic`. Requests that miss it raise `DeadlineExceeded`.
            retry_for: seconds, where they are fewer than the endpoint's own. With 0 a request is sent at
                most twice.
        """
        self.requests.limit(state, Limit(deadline, retry_for))

    def stream_every(
        self, state: ProgramState, tokens: int, on_piece: Callable[[str, dict[str, Any]], None] | None = None
    ) -> None:
        """Have the server send so many tokens at a time where a state streams: less work on both sides.

        Args:
            state: a state on this endpoint that streams.
            tokens: SGLang's `stream_interval`, of its sampling parameters; the default is the server's.
            on_piece: called with each piece of text and the meta information so far, in the state's thread,
                or in the program's where the state has none.
        """
        state.stream_executor.stream_interval, state.stream_executor.on_piece = tokens, on_piece

    def tie(self, state: ProgramState, others: Iterable[ProgramState]) -> None:
        """Give a state's deadline to others, on any endpoint, and have them aborted whenever it is.

        A fork is a state of its own: without this, it outlives the state that it was forked from.
        """
        self.requests.tie(state, others)

    def room(self, state: ProgramState, extra: str = "", enough: float = math.inf) -> float:
        """How many more tokens fit into the model's context after a state's text, `extra` after it; infinite
        where the server does not say how long its context is.

        Args:
            state: a state on this endpoint.
            extra: text that follows.
            enough: where the text's bytes leave so much room, its tokens, which are fewer, are not counted,
                and the number may be too low.
        """
        if self.context_length is None:
            return math.inf
        s = state.stream_executor
        s.sync()
        room = self.context_length - len((s.text_ + extra).encode())
        if room < enough:
            room = self.context_length - len(self.chat_template.encode(s, extra))
        return room

    def in_flight(self) -> int:
        """How many requests of this endpoint have not been answered yet."""
        return len(self.requests.in_flight)

    def with_template(self, settings: Mapping[str, Any] | None) -> "Endpoint":
        """This endpoint with other keyword arguments for its chat template, as its `template`; None: itself.
        Connections, deadlines and aborts are shared.

        Raises:
            ConfigError: the settings are not keyword arguments for the template.
        """
        if settings is None or settings == self.chat_template.settings:
            return self
        try:
            key = json.dumps(settings, sort_keys=True)
        except TypeError as error:
            raise ConfigError(f"template must be plain data: {error}") from None
        if (endpoint := self._templated.get(key)) is None:
            endpoint = copy.copy(self)
            endpoint.chat_template = TokenizerChatTemplate(self.tokenizer, self.get_model_name(), settings)
            self._templated.put(key, endpoint)
        return endpoint

    def with_sampling(self, parameters: Mapping[str, Any]) -> "Endpoint":
        """This endpoint, with SGLang's sampling parameters that `sgl.gen` (0.5.23) does not take, such as
        `repetition_penalty`, in each generation. Connections, deadlines and aborts are shared."""
        if not parameters:
            return self
        endpoint = copy.copy(self)
        endpoint._sampling, endpoint._templated = parameters, Memory(16)
        return endpoint

    def flush_cache(self) -> None:
        """Empty the server's radix cache; waits for requests that are still running, such as aborted ones."""
        self._http.check(*self._http.call("POST", f"/flush_cache?timeout={FLUSH_TIMEOUT:g}"))

    def get_server_info(self) -> dict[str, Any]:
        """The server's settings and state, as SGLang reports them at `/server_info`."""
        return self._http.json("GET", "/server_info")

    def close(self) -> None:
        """Abort what is in flight and close the connections."""
        self.abort()
        self._http.close()

    def __reduce__(self) -> tuple[Any, ...]:
        options = {**self._options, "template": self.chat_template.settings}
        return _connect, (self.base_url, options, self._sampling)

    def __copy__(self) -> "Endpoint":
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        return twin

    def __enter__(self) -> "Endpoint":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Payloads.

    def _payload(self, s: StreamExecutor, sampling_params: SglSamplingParams) -> dict[str, Any]:
        self._handle_dtype_to_regex(sampling_params)
        payload: dict[str, Any] = {
            "input_ids": self.chat_template.encode(s),
            "sampling_params": {
                "skip_special_tokens": global_config.skip_special_tokens_in_output,
                "spaces_between_special_tokens": global_config.spaces_between_special_tokens_in_out,
                **sampling_params.to_srt_kwargs(),
                **self._sampling,
            },
        }
        for name in ("return_logprob", "logprob_start_len", "top_logprobs_num", "return_text_in_logprobs"):
            if (value := getattr(sampling_params, name, None)) is not None:
                payload[name] = value
        return payload

    def _generate_http_request(self, s: StreamExecutor, data: dict[str, Any]) -> Any:
        # SGLang's own `select` calls this; its texts are the state's text and something after it.
        data = dict(data)
        if (text := data.pop("text", None)) is not None:
            start = len(s.text_)
            if isinstance(text, str):
                data["input_ids"] = self.chat_template.encode(s, text[start:])
            else:
                data["input_ids"] = [self.chat_template.encode(s, sequence[start:]) for sequence in text]
        answer = self.ask(s.sid, data)
        with reading(self.base_url):
            for part in each(answer):
                drop_first_logprob(part["meta_info"])
        return answer

    def _fitted(self, payload: dict[str, Any]) -> dict[str, Any]:
        """The payload, in place, asking for no more tokens than the context has room for.

        Raises:
            ContextLengthExceeded: the prompt alone does not fit.
        """
        if self.context_length is None:
            return payload
        ids, sampling = payload["input_ids"], payload.get("sampling_params", {})
        length = max(map(len, ids)) if is_batch(payload) else len(ids)
        if length >= self.context_length:
            raise self._http.too_long(f"{length} tokens of at most {self.context_length}")
        if (wanted := sampling.get("max_new_tokens")) is not None:
            sampling["max_new_tokens"] = min(wanted, self.context_length - length)
        return payload


def _connect(url: str, options: Mapping[str, Any], sampling: Mapping[str, Any]) -> Endpoint:
    return Endpoint(url, **options).with_sampling(sampling)
