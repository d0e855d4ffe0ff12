"""`Endpoint`: SGLang's `RuntimeEndpoint` with deadlines, aborts, clear errors and the model's own template.

Written against sglang 0.5.23's `sglang.lang.backend.runtime_endpoint` and `sglang.lang.interpreter`.
"""

import contextlib
import copy
import gc
import json
import logging
import math
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import urllib3
from sglang.lang.backend.base_backend import BaseBackend
from sglang.lang.backend.runtime_endpoint import RuntimeEndpoint
from sglang.lang.choices import ChoicesDecision, ChoicesSamplingMethod
from sglang.lang.interpreter import ProgramState, StreamExecutor, global_config  # its own module has moved
from sglang.lang.ir import SglSamplingParams

from specreason_sgl.errors import (
    ConfigError,
    ContextLengthExceeded,
    DeadlineExceeded,
    NotSGLang,
    RequestAborted,
    ServerBusy,
    ServerError,
    ServerFailed,
    ServerUnreachable,
    SpecReasonError,
    Unauthorized,
)
from specreason_sgl.lang.answers import check_answer, reading, valid
from specreason_sgl.lang.chat import Memory, TokenizerChatTemplate
from specreason_sgl.lang.classify import Classification
from specreason_sgl.lang.connections import carrying, make_pool, shut_down
from specreason_sgl.lang.logprobs import TextLogprobs, TokenLogprob, finite, read_tokens
from specreason_sgl.lang.score import ScoreTokens
from specreason_sgl.lang.tokenizer import PROBE, load_tokenizer, read_chat_template

CONNECT_TIMEOUT = 5.0  # seconds
CONNECTIONS = 256  # kept alive; more are made and closed
RETRY_FOR = 60.0  # seconds: a small model's server is started again in that time
FIRST_WAIT, LONGEST_WAIT = 0.2, 5.0  # seconds before a request is sent again; doubled each time
FAILURES = 3  # of a server that is there: then the request fails
BUSY = (429, 502, 503, 504)
TOO_LONG = ("context length", "longer than the model", "maximum allowed length")  # SGLang's words
FLUSH_TIMEOUT = 20.0  # seconds
ABORT_AGAIN = 0.1  # seconds; doubled each time
ABORT_WAIT = 0.5  # seconds for the server to answer; it may hang
REFUSED = (401, 403)
USAGE = ("prompt_tokens", "cached_tokens", "completion_tokens", "sent_at", "seconds")
log = logging.getLogger(__name__)


@dataclass
class _InFlight:
    sid: str  # the state's id, `StreamExecutor.sid`
    aborted: threading.Event = field(default_factory=threading.Event)
    connection: Any = None  # that it was sent on; see `lang.connections`
    sock: Any = None


class _Limit(NamedTuple):
    deadline: float = math.inf  # on the clock of time.monotonic
    retry_for: float = math.inf  # seconds


class Endpoint(RuntimeEndpoint):
    """A running SGLang server (or an `sglang-router` in front of several), to run programs on.

    Every prompt is sent as token ids, rendered by the model's own chat template (see `lang.chat`).

    Args:
        base_url: for example `http://127.0.0.1:30000`.
        api_key: the server's, if it has one.
        timeout: deadline of each request, in seconds; a request that misses it is aborted on the server.
        tokenizer: a folder or a Hugging Face name; default: what the server reports. Needed where the
            server names a folder of another machine.
        retry_for: seconds for which a request is sent again, with growing pauses, where the server is gone
            or too busy; within the timeout. The earlier one is aborted, and a stream goes on where it was.
            A server that is there and fails at a request is asked 3 times.
        template: keyword arguments for the chat template, such as `{"enable_thinking": False}` for Qwen3
            (`chat_template_kwargs` in OpenAI-style APIs).
        trust_remote_code: whether code that comes with the tokenizer may run here.

    Attributes:
        context_length: tokens of a prompt and what is generated on it; None where the server does not say.

    Raises:
        ServerUnreachable: nobody answers at `base_url`.
        NotSGLang: what answers there is not an SGLang server.
        ConfigError: a setting is not valid, the tokenizer cannot be loaded, or it is not the server's.

    A call that fails inside a state's thread raises where the program reads its result: `s["name"]`,
    `s.get_meta_info("name")`; `s.error()` returns it. Errors also cross `fork`.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        *,
        timeout: float = 600.0,
        tokenizer: str | None = None,
        retry_for: float = RETRY_FOR,
        template: Mapping[str, Any] | None = None,
        trust_remote_code: bool = False,
    ):
        BaseBackend.__init__(self)
        if not base_url.startswith(("http://", "https://")):
            raise ConfigError(
                f"{base_url!r} is not a server's URL: it should look like http://127.0.0.1:30000"
            )
        if not timeout > 0:
            raise ConfigError(f"the timeout is a number of seconds above 0, not {timeout}")
        self.base_url = base_url.rstrip("/")
        self.api_key = api_key
        self.verify = None
        self.timeout = timeout
        self.retry_for = retry_for
        try:
            self._pool = make_pool(self.base_url, CONNECTIONS)
        except urllib3.exceptions.LocationValueError:
            raise ConfigError(f"{base_url!r} is not a server's URL") from None
        self._path = urllib3.util.parse_url(self.base_url).path or ""
        self._in_flight: dict[str, _InFlight] = {}
        self._aborted: set[str] = set()  # states whose further requests are refused
        self._limits: dict[str, _Limit] = {}  # of states
        self._templates = Memory(16)  # endpoints like this one, by their template's arguments
        self._choice_ids = Memory(1024)  # a question is asked again and again
        self._tied: dict[str, list[ProgramState]] = {}  # to a state: those that are aborted with it
        # A state that the garbage collector finds ends itself (`end_program`) in whatever thread it runs in,
        # and that can be one that has the lock.
        self._lock = threading.RLock()
        self._aborts_refused = False
        self.model_info = self._get_model_info()
        server_info = self._read_server_info()
        self.tokenizer = load_tokenizer(
            tokenizer, self.model_info, server_info, self.base_url, trust_remote_code
        )
        self._check_tokenizer()
        if (source := read_chat_template(server_info, self.base_url)) is not None:
            self.tokenizer.chat_template = source
        self.chat_template = TokenizerChatTemplate(self.tokenizer, self.model_info["model_path"], template)
        self.context_length = _get_context_length(server_info)
        _end_forgotten_states_at_exit()

    # What SGLang's interpreter calls.

    def generate(self, s: StreamExecutor, sampling_params: SglSamplingParams):
        with _errors_to(s) as failed:
            if failed:
                return "", {}
            answer = self._generate(s.sid, self._payload(s, sampling_params))
            for one in answer if isinstance(answer, list) else [answer]:
                _cut(one, sampling_params.stop)
            if isinstance(answer, list):  # sampling parameter n
                return [one["text"] for one in answer], answer[0]["meta_info"]
            return answer["text"], answer["meta_info"]
        return "", {}

    def generate_stream(self, s: StreamExecutor, sampling_params: SglSamplingParams):
        with _errors_to(s) as failed:
            if failed:
                return
            with _Request(self, s.sid) as request:
                yield from self._stream(s, sampling_params, request)

    def select(
        self,
        s: StreamExecutor,
        choices: list[str],
        temperature: float,
        choices_method: ChoicesSamplingMethod,
    ) -> ChoicesDecision:
        with _errors_to(s) as failed:
            if failed:
                return ChoicesDecision("")
            if isinstance(choices_method, TextLogprobs):
                return self._text_logprobs(s, choices[0], choices_method)
            if isinstance(choices_method, Classification):
                values, usage = self.classify(s)
                return ChoicesDecision("", {"values": values, **usage})
            if isinstance(choices_method, ScoreTokens) and (ids := self._single_tokens(s, choices)):
                return self._select_token(s, choices, ids, choices_method)
            with reading(self.base_url):
                decision = super().select(s, choices, temperature, choices_method)
            if isinstance(choices_method, ScoreTokens) and choices_method.logprobs_of:
                ids = self.chat_template.encode(s)
                start, end = (self._tokens_before(s, ids, at) for at in choices_method.logprobs_of)
                decision.meta_info["logprobs"] = self._prefill_logprobs(s, ids, start, end)[0]
            return decision
        return ChoicesDecision("")

    def commit_lazy_operations(self, s: StreamExecutor):
        with _errors_to(s) as failed:
            if not failed:
                self._generate_http_request(s, {"text": s.text_, "sampling_params": {"max_new_tokens": 0}})

    fill_image = commit_lazy_operations

    def cache_prefix(self, prefix_str: str):
        ids = self.tokenizer.encode(prefix_str)
        self._generate("", {"input_ids": ids, "sampling_params": {"max_new_tokens": 0}})

    def end_program(self, s: StreamExecutor):
        if s.use_thread and not isinstance(s.worker, _Ended):
            s.worker = _Ended(s.worker)
        with self._lock:
            self._aborted.discard(s.sid)
            self._limits.pop(s.sid, None)
            self._tied.pop(s.sid, None)

    # Beside the language.

    def abort(self, state=None) -> int:
        """End this endpoint's requests on the server: those of one state, or all.

        Args:
            state: a `ProgramState`, or None for every request in flight.

        Returns:
            How many requests were told to end by this call. They raise `RequestAborted`, and so do further
            ones of the state.
        """
        posts: list[threading.Thread] = []
        count = self._begin_abort(state, posts)
        deadline = time.monotonic() + ABORT_WAIT
        for post in posts:
            post.join(max(deadline - time.monotonic(), 0))
        return count

    def _begin_abort(self, state, posts: list[threading.Thread]) -> int:
        """`abort` without the wait: `posts` gets the threads that tell the servers."""
        sid = state.stream_executor.sid if state is not None else None
        with self._lock:
            if sid:
                self._aborted.add(sid)
            requests = {
                rid: request
                for rid, request in self._in_flight.items()
                if sid in (None, request.sid) and not request.aborted.is_set()
            }
            for request in requests.values():
                request.aborted.set()
            tied = list(self._tied.get(sid, ())) if sid else []
        if requests:
            posts.append(_start(self._abort_until_gone, list(requests), ABORT_AGAIN))
        return len(requests) + sum(other.stream_executor.backend._begin_abort(other, posts) for other in tied)

    def _abort_until_gone(self, rids: list[str], again: float) -> None:
        """A request that is still on its way when its abort arrives would run: ask again while it does."""
        with self._lock:
            requests = {rid: self._in_flight[rid] for rid in rids if rid in self._in_flight}
        rids = list(requests)
        for rid in rids:
            if (status := self._abort_rid(rid)) is None:
                break  # a server that hangs does not answer the others either
            if status in REFUSED:
                shut_down(requests[rid])  # SGLang aborts a request whose client has gone
        if rids and again < CONNECT_TIMEOUT:
            timer = threading.Timer(again, self._abort_until_gone, (rids, 2 * again))
            timer.daemon = True
            timer.start()

    def limit(self, state, deadline: float = math.inf, retry_for: float = math.inf) -> None:
        """Give a state's requests a common deadline, beside the timeout of each.

        Args:
            state: a `ProgramState` on this endpoint.
            deadline: on the clock of `time.monotonic`. Requests that miss it raise `DeadlineExceeded`.
            retry_for: seconds, where they are fewer than the endpoint's own. With 0 a request is sent a
                second time at most.
        """
        self._limits[state.stream_executor.sid] = _Limit(deadline, retry_for)

    def room(self, state, extra: str = "") -> float:
        """How many more tokens fit into the model's context after a state's text, `extra` after it; infinite
        where the server does not say how long its context is."""
        if self.context_length is None:
            return math.inf
        s = state.stream_executor
        s.sync()
        return self.context_length - len(self.chat_template.encode(s, extra))

    def tie(self, state: ProgramState, others: Iterable[ProgramState]) -> None:
        """Give a state's deadline to others, on any endpoint, and have them aborted whenever it is.

        A fork is a state of its own: without this, it outlives the one that it was made of.
        """
        sid = state.stream_executor.sid
        with self._lock:
            self._tied.setdefault(sid, []).extend(others := list(others))
            limit, aborted = self._limits.get(sid), sid in self._aborted
        for one in others:
            if limit is not None:
                one.stream_executor.backend.limit(one, *limit)
            if aborted:
                one.stream_executor.backend.abort(one)

    def in_flight(self) -> int:
        """How many requests of this endpoint have not been answered yet."""
        return len(self._in_flight)

    def with_template(self, settings: Mapping[str, Any] | None) -> "Endpoint":
        """This endpoint with other keyword arguments for its chat template. Connections, deadlines and aborts
        are the same.

        Args:
            settings: as `template` of the endpoint; None: this endpoint.

        Raises:
            ConfigError: they are not keyword arguments that are the template's.
        """
        if settings is None or settings == self.chat_template.settings:
            return self
        try:
            key = json.dumps(settings, sort_keys=True)
        except TypeError as error:
            raise ConfigError(f"the template's arguments must be plain data: {error}") from None
        if (endpoint := self._templates.get(key)) is None:
            endpoint = copy.copy(self)
            template = self.chat_template
            endpoint.chat_template = TokenizerChatTemplate(self.tokenizer, template.name, settings)
            self._templates.put(key, endpoint)
        return endpoint

    def classify(self, s: StreamExecutor, extra: str = "") -> tuple[list[float], dict[str, Any]]:
        """What a reward or classification model says of a state's text, `extra` after it.

        Args:
            s: a `ProgramState`, or its executor.

        Returns:
            The values of its head for the last token, and the request's counts as in `lang.score`.

        Raises:
            ServerError: the server does not serve such a model (`sglang serve --is-embedding`).
        """
        if isinstance(s, ProgramState):
            s = s.stream_executor
            s.sync()
        answer = self._generate(s.sid, {"input_ids": self.chat_template.encode(s, extra)}, "/classify")
        with reading(self.base_url):
            values = answer["embedding"]
            return (values if isinstance(values, list) else [values]), _usage(answer["meta_info"])

    def flush_cache(self):
        """Empty the server's radix cache; waits for requests that are still running, such as aborted ones."""
        self._json("POST", f"/flush_cache?timeout={FLUSH_TIMEOUT:g}", expect_json=False)

    def get_server_info(self) -> dict[str, Any]:
        """The server's settings and state, as SGLang reports them at `/server_info`."""
        return self._json("GET", "/server_info")

    def close(self) -> None:
        """Abort what is in flight and close the connections."""
        self.abort()
        self._pool.close()

    def __enter__(self) -> "Endpoint":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    # Requests.

    def _payload(self, s: StreamExecutor, sampling_params: SglSamplingParams) -> dict[str, Any]:
        self._handle_dtype_to_regex(sampling_params)
        payload: dict[str, Any] = {
            "input_ids": self.chat_template.encode(s),
            "sampling_params": {
                "skip_special_tokens": global_config.skip_special_tokens_in_output,
                "spaces_between_special_tokens": global_config.spaces_between_special_tokens_in_out,
                **sampling_params.to_srt_kwargs(),
            },
        }
        for name in ("return_logprob", "logprob_start_len", "top_logprobs_num", "return_text_in_logprobs"):
            if (value := getattr(sampling_params, name, None)) is not None:
                payload[name] = value
        return payload

    def _generate_http_request(self, s: StreamExecutor, data):
        # SGLang's own `select` builds on this; its texts are the state's text and something after it.
        data = dict(data)
        if (text := data.pop("text", None)) is not None:
            start = len(s.text_)
            if isinstance(text, str):
                data["input_ids"] = self.chat_template.encode(s, text[start:])
            else:
                data["input_ids"] = [self.chat_template.encode(s, one[start:]) for one in text]
        answer = self._generate(s.sid, data)
        for one in answer if isinstance(answer, list) else [answer]:
            # The first token asked for has no logprob. SGLang's `select` (0.5.23) takes the list to begin
            # after it, and its `greedy_token_selection` fails on the None.
            with reading(self.base_url):
                logprobs = one["meta_info"].get("input_token_logprobs")
                if logprobs and logprobs[0][0] is None:
                    del logprobs[0]
        return answer

    def _single_tokens(self, s: StreamExecutor, choices: list[str]) -> list[int]:
        """Each choice's one token id at the state's end, or none where a choice is not one token there."""
        key = (s.text_[-32:], tuple(choices))
        if (ids := self._choice_ids.get(key)) is None:
            ids = self._find_single_tokens(*key)
            self._choice_ids.put(key, ids)
        return ids

    def _find_single_tokens(self, tail: str, choices: tuple[str, ...]) -> list[int]:
        before = self.chat_template.encode_text(tail)
        ids = []
        for choice in choices:
            after = self.chat_template.encode_text(tail + choice)
            if after[:-1] != before:
                return []
            ids.append(after[-1])
        return ids if len(set(ids)) == len(ids) else []

    def _select_token(
        self, s: StreamExecutor, choices: list[str], ids: list[int], method: ScoreTokens
    ) -> ChoicesDecision:
        payload = {
            "input_ids": self.chat_template.encode(s),
            "sampling_params": {"max_new_tokens": 1, "temperature": 0},
            "return_logprob": True,
            "token_ids_logprob": ids,
        }
        span = None
        if method.logprobs_of:
            span = [self._tokens_before(s, payload["input_ids"], at) for at in method.logprobs_of]
            payload |= {"logprob_start_len": span[0] - 1, "top_logprobs_num": 1}
        meta = self._generate(s.sid, payload)["meta_info"]
        with reading(self.base_url):
            found = {token: logprob for logprob, token, *_ in meta["output_token_ids_logprobs"][0]}
            decision = method.decide(choices, [finite(found[i]) for i in ids], _usage(meta))
        if span:
            decision.meta_info["logprobs"] = self._read_logprobs(payload["input_ids"], *span, meta)
        return decision

    def _text_logprobs(self, s: StreamExecutor, text: str, method: TextLogprobs) -> ChoicesDecision:
        ids = self.chat_template.encode(s, text)
        start = self._tokens_before(s, ids, len(s.text_))
        if method.end_of_turn:
            ids = [*ids, self.chat_template.end_of_turn]
        tokens, meta = self._prefill_logprobs(s, ids, start, len(ids), method.top)
        return ChoicesDecision(text, {"logprobs": tokens, **_usage(meta)})

    def _prefill_logprobs(
        self, s: StreamExecutor, ids: list[int], start: int, end: int, top: int = 1
    ) -> tuple[tuple[TokenLogprob, ...], dict[str, Any]]:
        payload = {
            "input_ids": ids,
            "sampling_params": {"max_new_tokens": 0, "temperature": 0},
            "return_logprob": True,
            "logprob_start_len": start - 1,
            "top_logprobs_num": top,
        }
        meta = self._generate(s.sid, payload)["meta_info"]
        return self._read_logprobs(ids, start, end, meta), meta

    def _tokens_before(self, s: StreamExecutor, ids: list[int], at: int) -> int:
        """How many of a state's token ids stand for its text before a position; at least one."""
        before = self.chat_template.encode(s, until=at)
        same = next((i for i, (a, b) in enumerate(zip(ids, before, strict=False)) if a != b), len(before))
        return max(min(same, len(ids)), 1)

    def _read_logprobs(self, ids: list[int], start: int, end: int, meta) -> tuple[TokenLogprob, ...]:
        with reading(self.base_url):
            return read_tokens(self.chat_template.decode, ids, start, end, meta)

    def _generate(self, sid: str, payload: dict[str, Any], path: str = "/generate"):
        self._fit(payload)
        answer = None
        with _Request(self, sid, path) as request:
            while answer is None:
                try:
                    response = request.send(payload)
                    body = self._read(response, request.deadline)
                    answer = self._checked(request, self._parse(response.status, body))
                except RequestAborted as error:
                    error.meta_info.update(request.times())
                    raise
                except (ServerUnreachable, ServerBusy, ServerFailed) as error:
                    request.wait_to_send_again(error)
            times = request.times()
        for one in answer if isinstance(answer, list) else [answer]:
            one["meta_info"].update(times)
        return answer

    def _stream(self, s: StreamExecutor, sampling_params: SglSamplingParams, request: "_Request"):
        """Pieces of text with their meta information. Where the server goes away in the middle, the rest is
        generated after what has come: the interpreter has put it into the state's text."""
        constrained = sampling_params.regex or sampling_params.json_schema
        before = 0  # tokens
        while True:
            payload = {**self._payload(s, sampling_params), "stream": True}
            payload["sampling_params"]["max_new_tokens"] -= before
            self._fit(payload)
            position, tokens, finished = 0, 0, None
            try:
                for answer in self._answers(request, payload):
                    meta = answer["meta_info"]
                    tokens, finished = meta.get("completion_tokens", 0), meta.get("finish_reason")
                    meta["completion_tokens"] = before + tokens
                    text = answer["text"] if finished else _surely(answer["text"], sampling_params.stop)
                    yield text[position:], meta
                    position = max(position, len(text))
                request.close()  # a connection with unread bytes cannot be used again
                return
            except (ServerUnreachable, ServerBusy, ServerFailed) as error:
                if finished:
                    return
                if constrained and position and not request.in_flight.aborted.is_set():
                    raise  # the constraint would begin anew after what has come
                request.wait_to_send_again(error)
            before += tokens
            if before >= sampling_params.max_new_tokens:
                return  # it broke off after the last one

    def _answers(self, request: "_Request", payload: dict[str, Any]) -> Iterator[dict[str, Any]]:
        response = request.send(payload)
        if response.status != 200:
            self._parse(response.status, self._read(response, request.deadline))
        answer = None
        for event in self._events(response, request.deadline):
            try:
                answer = self._checked(request, self._parse(200, event))
            except RequestAborted as error:
                error.meta_info.update(request.times())
                raise
            request.goes_on()
            answer["meta_info"].update(request.times())
            yield answer
        if answer is None:
            raise ServerFailed(f"{self.base_url} sent a stream with no answer in it")

    def _fit(self, payload: dict[str, Any]) -> None:
        """Ask for no more tokens than the context has room for.

        Raises:
            ContextLengthExceeded: the prompt alone does not fit.
        """
        ids, sampling = payload["input_ids"], payload.get("sampling_params", {})
        if self.context_length is None:
            return
        room = self.context_length - max(len(one) for one in (ids if ids and _is_batch(ids) else [ids]))
        if room <= 0:
            raise self._too_long(f"{self.context_length - room} tokens of at most {self.context_length}")
        if (most := sampling.get("max_new_tokens")) is not None:
            sampling["max_new_tokens"] = min(most, room)

    def _too_long(self, why: str) -> ContextLengthExceeded:
        return ContextLengthExceeded(
            f"the prompt is longer than the context of {self.get_model_name()} at {self.base_url}: {why}"
        )

    def _checked(self, request: "_Request", answer):
        if isinstance(answer, dict) and "error" in answer:
            raise self._refused(200, answer)
        for one in answer if isinstance(answer, list) else [answer]:
            check_answer(self.base_url, one, embedding=request.path == "/classify")
            reason = one["meta_info"].get("finish_reason") or {}
            if reason.get("type") == "abort" or request.in_flight.aborted.is_set():
                message = valid(str(reason.get("message") or "it was aborted"))
                message = f"{self.base_url} ended a request before it was done: {message}"
                if request.in_flight.aborted.is_set():
                    raise RequestAborted(message, one["meta_info"])
                if type(status := reason.get("status_code")) is int:  # a stream has no other way to say it
                    raise self._refused(status, message)
                raise ServerFailed(message)
        if isinstance(answer, list) != request.several or answer == []:
            raise ServerFailed(f"{self.base_url} sent something that is not an answer of SGLang's")
        return answer

    def _events(self, response, deadline: float) -> Iterator[bytes]:
        buffer = b""
        for chunk in self._chunks(response, deadline):
            buffer += chunk
            *lines, buffer = buffer.split(b"\n")
            for line in lines:
                if line.startswith(b"data: [DONE]"):
                    return
                if line.startswith(b"data:"):
                    yield line[5:]
        raise ServerUnreachable(f"{self.base_url} broke off in the middle of an answer; is it still running?")

    def _read(self, response, deadline: float) -> bytes:
        return b"".join(self._chunks(response, deadline))

    def _chunks(self, response, deadline: float) -> Iterator[bytes]:
        try:
            while chunk := self._read_until(deadline, response):
                yield chunk
                if time.monotonic() > deadline:
                    raise self._late()
        except urllib3.exceptions.ReadTimeoutError:
            raise self._late() from None
        except urllib3.exceptions.HTTPError as error:
            raise ServerUnreachable(f"the connection to {self.base_url} broke ({_why(error)})") from None

    def _read_until(self, deadline: float, response) -> bytes:
        # The timeout that the request was sent with begins anew at each read.
        if sock := getattr(response.connection, "sock", None):
            sock.settimeout(max(deadline - time.monotonic(), 0.01))
        return response.read1(1 << 20)

    def _send(
        self,
        method: str,
        path: str,
        timeout: float,
        body: bytes | None = None,
        in_flight: _InFlight | None = None,
    ):
        try:
            with carrying(in_flight):
                return self._pool.urlopen(
                    method,
                    self._path + path,
                    body=body,
                    headers=self._headers(),
                    retries=False,
                    assert_same_host=False,
                    preload_content=False,
                    timeout=urllib3.Timeout(
                        connect=min(CONNECT_TIMEOUT, max(timeout, 0.01)), read=max(timeout, 0.01)
                    ),
                )
        except (urllib3.exceptions.ConnectTimeoutError, urllib3.exceptions.NewConnectionError) as error:
            raise ServerUnreachable(
                f"nobody answers at {self.base_url}; is the server running? ({_why(error)})"
            ) from None
        except urllib3.exceptions.ReadTimeoutError:
            raise self._late() from None
        except urllib3.exceptions.HTTPError as error:
            raise ServerUnreachable(f"the connection to {self.base_url} broke ({_why(error)})") from None

    def _late(self, seconds: float | None = None) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"{self.base_url} did not answer within {seconds or self.timeout:.3g} s; it may be overloaded, "
            "or the timeout too short for this machine"
        )

    def _json(self, method: str, path: str, expect_json: bool = True, body: bytes | None = None):
        deadline = time.monotonic() + min(self.timeout, 30.0)
        response = self._send(method, path, deadline - time.monotonic(), body)
        body = _draining(response, lambda: self._read(response, deadline))
        return self._parse(response.status, body) if expect_json or response.status != 200 else None

    def _parse(self, status: int, body: bytes):
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            answer = None
        if status != 200:
            raise self._refused(status, answer or body.decode(errors="replace"))
        if answer is None:
            raise ServerFailed(f"{self.base_url} sent an answer that is not JSON: {_excerpt(body)}")
        return answer

    def _refused(self, status: int, answer) -> ServerError:
        message = answer
        while isinstance(message, dict):
            message = message.get("error") or message.get("message") or message.get("detail") or str(message)
        message = " ".join(valid(str(message or "no reason given")).split())
        if any(one in message for one in TOO_LONG):
            return self._too_long(message[:500])
        if status in (401, 403):
            return Unauthorized(f"{self.base_url} refuses the API key (status {status}); pass the right one")
        kind = ServerBusy if status in BUSY else ServerError if 400 <= status < 500 else ServerFailed
        what = "an error" if status == 200 else f"status {status}"
        return kind(f"{self.base_url} answered with {what}: {message[:500]}")

    def _abort_rid(self, rid: str) -> int | None:
        """The status that the server answered with, or None if it did not."""
        body = json.dumps({"rid": rid}).encode()
        with contextlib.suppress(SpecReasonError, urllib3.exceptions.HTTPError):  # what is gone runs nothing
            response = self._send("POST", "/abort_request", CONNECT_TIMEOUT, body)
            _draining(response, response.read)
            status = response.status
            if status == 404:  # sglang-router (0.3.2) does not pass an abort on
                answer = self._json("GET", "/workers")
                for worker in answer.get("workers", ()) if isinstance(answer, dict) else ():
                    if self._abort_at(worker["url"], body) in REFUSED:
                        status = REFUSED[0]
            if status in REFUSED:
                self._warn_of_refused_aborts()
            return status
        return None

    def _abort_at(self, worker: str, body: bytes) -> int | None:
        with contextlib.suppress(urllib3.exceptions.HTTPError):
            return urllib3.request(
                "POST",
                f"{worker}/abort_request",
                body=body,
                headers=self._headers(),
                retries=False,
                timeout=CONNECT_TIMEOUT,
            ).status
        return None

    def _warn_of_refused_aborts(self) -> None:
        with self._lock:
            warned, self._aborts_refused = self._aborts_refused, True
        if not warned:
            log.warning(
                "%s refuses to abort requests: it wants its --admin-api-key; their connections are closed "
                "instead, which SGLang notices within seconds",
                self.base_url,
            )

    def _headers(self) -> dict[str, str]:
        key = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        return {"Content-Type": "application/json", **key}

    def _get_model_info(self) -> dict[str, Any]:
        info = None
        for path in ("/model_info", "/get_model_info"):  # the second: older servers
            try:
                info = self._json("GET", path)
                break
            except ServerError as error:
                if type(error) not in (ServerError, ServerFailed):
                    raise
        if not isinstance(info, dict) or "model_path" not in info:
            raise NotSGLang(f"{self.base_url} is not an SGLang server: its /model_info names no model")
        return info

    def _read_server_info(self) -> dict[str, Any]:
        try:
            info = self.get_server_info()
        except ServerError:
            return {}
        return info if isinstance(info, dict) else {}

    def _check_tokenizer(self) -> None:
        """Compare the tokenizer with the server's own, where the server says how it encodes a text.
        A router and older servers do not.

        Raises:
            ConfigError: they differ.
        """
        try:
            answer = self._json("POST", "/tokenize", body=json.dumps({"prompt": PROBE}).encode())
        except ServerError:
            return
        ids = answer.get("tokens") if isinstance(answer, dict) else None
        if not isinstance(ids, list) or not ids or not all(type(token) is int for token in ids):
            return
        if ids != self.tokenizer.encode(PROBE):
            raise ConfigError(
                f"the tokenizer {self.tokenizer.name_or_path!r} must encode text as the server "
                f"{self.base_url} does, got other token ids; pass the folder or the Hugging Face name of "
                "the server's tokenizer as tokenizer="
            )


class _Request:
    """One request until the end of its answer: registered, closed, aborted if left early, and sent again
    where that is safe and there is time. Nothing but computing is done twice by generating twice, and the
    earlier request is aborted, or gone with its server."""

    def __init__(self, endpoint: Endpoint, sid: str, path: str = "/generate"):
        self.endpoint, self.path, self.rid = endpoint, path, ""
        self.in_flight = _InFlight(sid)
        self.rids: list[str] = []
        self.response, self.several = None, False
        self.waits, self.failing_since, self.failures = 0, 0.0, 0

    def __enter__(self) -> "_Request":
        endpoint = self.endpoint
        self.sent_at = time.monotonic()
        limit = endpoint._limits.get(self.in_flight.sid, _Limit())
        self.deadline = min(limit.deadline, self.sent_at + endpoint.timeout)
        self.retry_for = min(limit.retry_for, endpoint.retry_for)
        return self

    def send(self, payload: dict[str, Any]):
        """Send it, each time under a new id: the server may still have the earlier one."""
        endpoint, ids = self.endpoint, payload["input_ids"]
        with endpoint._lock:
            endpoint._in_flight.pop(self.rid, None)
            if self.in_flight.aborted.is_set() or self.in_flight.sid in endpoint._aborted:
                raise self._aborted()
            # The scheduler aborts by prefix of the request id, so ids are of one length.
            self.rid = uuid.uuid4().hex
            endpoint._in_flight[self.rid] = self.in_flight
        batch = bool(ids and _is_batch(ids))
        self.several = batch or payload.get("sampling_params", {}).get("n", 1) > 1
        self.rids = [f"{self.rid}-{i}" for i in range(len(ids))] if batch else [self.rid]
        body = json.dumps({**payload, "rid": self.rids if batch else self.rid}).encode()
        remaining = self.deadline - time.monotonic()
        self.response = endpoint._send("POST", self.path, remaining, body, self.in_flight)
        return self.response

    def wait_to_send_again(self, error: ServerError) -> None:
        """Abort what was sent, and wait.

        Raises:
            ServerError: the error, where there is no time to try again.
            RequestAborted: it was aborted.
        """
        self.close()
        self._abort()
        now, wait = time.monotonic(), min(FIRST_WAIT * 2**self.waits, LONGEST_WAIT)
        self.failing_since = self.failing_since or now
        until = min(self.deadline, self.failing_since + self.retry_for) if self.waits else self.deadline
        self.failures += isinstance(error, ServerFailed)
        if (now + wait > until or self.failures >= FAILURES) and not self.in_flight.aborted.is_set():
            if self.waits:
                error.args = (f"{error} (tried {self.waits + 1} times in {now - self.failing_since:.1f} s)",)
            raise error
        if not self.waits and self.retry_for:
            most = "" if isinstance(error, ServerFailed) else f" for {self.retry_for:g} s"
            log.warning("%s; it is asked again%s", error, most)
        self.waits += 1
        if self.in_flight.aborted.wait(wait):
            raise self._aborted()

    def goes_on(self) -> None:
        """What failed before has been made good."""
        self.waits, self.failing_since = 0, 0.0

    def times(self) -> dict[str, float]:
        return {"sent_at": self.sent_at, "seconds": time.monotonic() - self.sent_at}

    def __exit__(self, kind, error, _) -> None:
        self.close(bool(kind))
        with self.endpoint._lock:  # `abort` goes over them in another thread
            self.endpoint._in_flight.pop(self.rid, None)
        if isinstance(error, DeadlineExceeded):
            error.args = self.endpoint._late(self.deadline - self.sent_at).args
        if kind and not self.in_flight.aborted.is_set() and not isinstance(error, ServerUnreachable):
            self._abort()

    def _abort(self) -> None:
        """A server that hangs does not answer this either, so it goes on in the background."""

        def post(rids: list[str]) -> None:
            for rid in rids:
                if self.endpoint._abort_rid(rid) is None:
                    break

        _start(post, self.rids).join(ABORT_WAIT)

    def close(self, early: bool = True) -> None:
        if self.response is not None:
            if early:
                self.response.close()
            self.response.release_conn()
            self.response = None

    def _aborted(self) -> RequestAborted:
        return RequestAborted(f"the state was aborted; nothing more was sent to {self.endpoint.base_url}")


class _FailedText(str):
    """A failed state's text: carries the error through `+` and `str()`, and so into forks."""

    error: SpecReasonError

    def __str__(self):
        return self

    def __add__(self, other):
        return _failed_text(str.__add__(self, other), self.error)


def _failed_text(text: str, error: SpecReasonError) -> _FailedText:
    failed = _FailedText(text)
    failed.error = error
    return failed


class _FailedResults(dict):
    """A failed state's variables or meta information: what was not there in time raises the error."""

    error: SpecReasonError

    def __missing__(self, name):
        raise self.error

    def __setitem__(self, name, value):
        pass

    def get(self, name, default=None):
        return self[name]


class _errors_to:
    """Keeps an error of this package for the program's own thread.

    SGLang's interpreter turns an exception in a state's thread into a warning and a later `KeyError`. Here
    the state is marked as failed instead, and reading its results raises. Other exceptions are bugs and
    take SGLang's way. Entering gives whether the state has failed before.
    """

    def __init__(self, s: StreamExecutor):
        self.s = s

    def __enter__(self) -> bool:
        if error := getattr(self.s.text_, "error", None):
            self._mark(error)
        return bool(error)

    def __exit__(self, kind, error, _) -> bool:
        if not isinstance(error, SpecReasonError):
            return False
        self._mark(error)
        return True

    def _mark(self, error: SpecReasonError) -> None:
        s = self.s
        s.error_ = error
        s.text_ = _failed_text(s.text_, error)
        ready = {name for name, event in s.variable_event.items() if event.is_set()}
        for attribute in ("variables", "meta_info"):
            results = getattr(s, attribute)
            if not isinstance(results, _FailedResults):
                kept = {k: v for k, v in results.items() if k in ready or k not in s.variable_event}
                failed = _FailedResults(kept)
                failed.error = error
                setattr(s, attribute, failed)


class _Ended:
    """In the place of an ended state's thread.

    SGLang (0.5.23) ends a state once more when it is deleted, and asks its thread whether it is alive. Where
    the garbage collector deletes it, that can be within a thread's start, which has the lock that `is_alive`
    takes in Python before 3.13: a deadlock.
    """

    def __init__(self, thread: threading.Thread):
        self.thread = thread

    def is_alive(self) -> bool:
        return False


_watching_exit = threading.Lock()


def _end_forgotten_states_at_exit() -> None:
    """Let a script whose program failed come to its end.

    A state has a thread that waits for work until the state is deleted, and Python waits for that thread. An
    uncaught exception keeps the frames of its traceback, and so every fork that they hold, for ever.
    """
    if _watching_exit.acquire(blocking=False):
        threading.Thread(target=_end_forgotten_states, daemon=True).start()


def _end_forgotten_states() -> None:
    main = threading.main_thread()
    main.join()
    while True:
        executors = [one for one in gc.get_objects() if type(one) is StreamExecutor and one.use_thread]
        states = [state for state in executors if isinstance(state.backend, Endpoint)]
        mine = {main, *(getattr(state.worker, "thread", state.worker) for state in states)}
        others = [thread for thread in threading.enumerate() if not thread.daemon and thread not in mine]
        if not others:
            break
        others[0].join()  # it may still use a state
    for state in states:
        state.backend.abort(ProgramState(state))
        state.end()


def _cut(answer: dict[str, Any], stops: str | Iterable[str]) -> None:
    """Hold a server to the texts that end a generation: what follows one was not asked for."""
    for stop in [stops] if isinstance(stops, str) else stops or ():
        text, found, _ = answer["text"].partition(stop)
        if found:
            answer["text"] = text
            answer["meta_info"]["finish_reason"] = {"type": "stop", "matched": stop}


def _surely(text: str, stops: str | Iterable[str]) -> str:
    """A stream's text so far, without what may turn out to be the beginning of a stop text, and then is cut
    off by the server."""
    stops = [stops] if isinstance(stops, str) else list(stops or ())
    held = (n for stop in stops for n in range(len(stop) - 1, 0, -1) if text.endswith(stop[:n]))
    return text[: len(text) - max(held, default=0)]


def _is_batch(ids: list) -> bool:
    return isinstance(ids[0], list)


def _usage(meta: dict[str, Any]) -> dict[str, Any]:
    return {name: meta[name] for name in USAGE if name in meta}


def _draining(response, read):
    try:
        return read()
    finally:
        response.release_conn()


def _get_context_length(server_info: dict[str, Any]) -> int | None:
    # The scheduler's own limit of a prompt (0.5.23). It knows the memory too; 5 tokens of what is generated
    # fit beside it.
    for name, beside in (("max_req_input_len", 0), ("context_length", 6)):
        if type(server_info.get(name)) is int and server_info[name] > beside:
            return server_info[name] - beside
    return None


def _start(target, *args) -> threading.Thread:
    thread = threading.Thread(target=target, args=args, daemon=True)
    thread.start()
    return thread


def _why(error: Exception) -> str:
    return str(error).rsplit(": ", 1)[-1]


def _excerpt(body: bytes) -> str:
    return repr(body[:80].decode(errors="replace"))
