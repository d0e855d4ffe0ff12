"""Requests in flight to one server: their deadlines, retries and aborts, and the states they belong to."""

import itertools
import logging
import math
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
from sglang.lang.interpreter import ProgramState

from specreason_sgl.errors import (
    RequestAborted,
    ServerBusy,
    ServerError,
    ServerFailed,
    ServerUnreachable,
)
from specreason_sgl.lang.aborts import Aborts
from specreason_sgl.lang.answers import check_answer, each, one_line
from specreason_sgl.lang.connection import Wire
from specreason_sgl.lang.http import CONNECT_TIMEOUT, REFUSED, Deadline, Http, Response

FIRST_WAIT, LONGEST_WAIT = 0.2, 5.0  # seconds before a request is sent again; doubled each time
MAX_FAILURES = 3  # of a server that is there: then the request fails
ABORT_AGAIN = 0.1  # seconds before an abort is repeated; doubled each time
ABORT_WAIT = 0.5  # seconds for the server to answer an abort; it may hang
RETRIED = (ServerUnreachable, ServerBusy, ServerFailed)
log = logging.getLogger(__name__)


class Limit(NamedTuple):
    """What a state's requests may take."""

    deadline: float = math.inf  # on the clock of time.monotonic
    retry_for: float = math.inf  # seconds


@dataclass(frozen=True)
class RequestRecord:
    """A generation request that has ended, as `on_request` is told of it.

    Attributes:
        state_id: `StreamExecutor.sid` of the state that it was for; empty for none.
        path: `/generate` or `/classify`.
        payload: what was sent, the last time where it was sent again; None if nothing was.
        answer: the parsed answer, a list of them where there were several prompts or samples; of a stream its
            last event; None if there was none.
        error: what ended the request instead of its answer; None if nothing did.
        sent_at: on the clock of `time.monotonic`.
        seconds: from then until the end, retries included.
    """

    state_id: str
    path: str
    payload: dict[str, Any] | None
    answer: Any
    error: BaseException | None
    sent_at: float
    seconds: float


OnRequest = Callable[[RequestRecord], None]


class Requests:
    """The requests in flight to one server, and what is known of the states that they are for.

    Args:
        http: the connection.
        timeout: deadline of each request, in seconds.
        retry_for: seconds for which a request is sent again.
        on_request: called with the record of each request when it has ended, in the request's thread.

    Attributes:
        in_flight: requests by the id that the server knows; read and written under `lock`.
    """

    def __init__(self, http: Http, timeout: float, retry_for: float, on_request: OnRequest | None = None):
        self.http, self.timeout, self.retry_for, self.on_request = http, timeout, retry_for, on_request
        self.aborts = Aborts(http)
        self.in_flight: dict[str, Request] = {}
        # A state that the garbage collector finds ends itself (`forget`) in whatever thread it runs in, which
        # may be one that holds the lock.
        self.lock = threading.RLock()
        self._numbers = itertools.count(uuid.uuid4().int)
        self._aborted: set[str] = set()  # ids of states whose further requests are refused
        self._limits: dict[str, Limit] = {}  # by a state's id
        self._tied: dict[str, list[ProgramState]] = {}  # by a state's id: what is aborted with it

    def answer(self, sid: str, payload: dict[str, Any], path: str = "/generate") -> Any:
        """Send a request for a state, again where that is safe and there is time.

        Returns:
            The parsed and checked answer, a list for several prompts or samples. Its `meta_info` also has
            `sent_at` and `seconds`.

        Raises:
            ServerError: there is no answer.
        """
        with Request(self, sid, path) as request:
            while True:
                try:
                    response = request.send(payload)
                    answer = request.check(self.http.parse(response.status, response.read()))
                    break
                except RETRIED as error:
                    request.wait_to_retry(error)
        for part in each(answer):
            part["meta_info"].update(request.times())
        return answer

    def limit(self, state: ProgramState, limit: Limit) -> None:
        """Limit a state's further requests."""
        with self.lock:
            self._limits[_sid(state)] = limit

    def limit_of(self, sid: str) -> Limit:
        with self.lock:
            return self._limits.get(sid, Limit())

    def tie(self, state: ProgramState, others: Iterable[ProgramState]) -> None:
        """Give a state's limit to others, on any endpoint, and have them aborted whenever it is."""
        sid, others = _sid(state), list(others)
        with self.lock:
            self._tied.setdefault(sid, []).extend(others)
            limit, aborted = self._limits.get(sid), sid in self._aborted
        for other in others:
            if limit is not None:
                _requests_of(other).limit(other, limit)
            if aborted:
                _requests_of(other).abort(other)

    def forget(self, sid: str) -> None:
        """Forget an ended state."""
        with self.lock:
            self._aborted.discard(sid)
            self._limits.pop(sid, None)
            self._tied.pop(sid, None)

    def register(self, request: "Request") -> None:
        """Give a request a new id, and note it as in flight.

        Raises:
            RequestAborted: it, or its state, was aborted before.
        """
        with self.lock:
            self.in_flight.pop(request.rid, None)
            if request.aborted.is_set() or request.sid in self._aborted:
                raise request.abort_error(request.times())
            # The scheduler aborts by prefix of the request id, so ids are of one length.
            request.rid = f"{next(self._numbers):032x}"
            self.in_flight[request.rid] = request

    def unregister(self, request: "Request") -> None:
        with self.lock:
            self.in_flight.pop(request.rid, None)

    def abort(self, state: ProgramState | None = None) -> int:
        """Abort a state's requests, or all, and wait a moment for the servers to answer.

        Returns:
            How many requests were told to end by this call.
        """
        posts: list[threading.Thread] = []
        count = self.begin_abort(state, posts)
        deadline = time.monotonic() + ABORT_WAIT
        for post in posts:
            post.join(max(deadline - time.monotonic(), 0))
        return count

    def begin_abort(self, state: ProgramState | None, posts: list[threading.Thread]) -> int:
        """`abort` without the wait: `posts` receives the threads that tell the servers."""
        sid = _sid(state) if state is not None else None
        with self.lock:
            if sid is not None:
                self._aborted.add(sid)
            requests = {
                rid: request
                for rid, request in self.in_flight.items()
                if sid in (None, request.sid) and not request.aborted.is_set()
            }
            for request in requests.values():
                request.aborted.set()
            tied = list(self._tied.get(sid, ())) if sid is not None else []
        if requests:
            posts.append(_start(self._abort_until_gone, list(requests), ABORT_AGAIN))
        return len(requests) + sum(_requests_of(other).begin_abort(other, posts) for other in tied)

    def _abort_until_gone(self, rids: list[str], again: float) -> None:
        """Post aborts, repeatedly: a request still on its way when its abort arrives would run."""
        with self.lock:
            requests = {rid: self.in_flight[rid] for rid in rids if rid in self.in_flight}
        for rid, request in requests.items():
            if (status := self.aborts.post(rid)) is None:
                break  # a server that hangs does not answer the others either
            if status in REFUSED:
                request.wire.shut_down()  # SGLang aborts a request whose client has gone
        if requests and again < CONNECT_TIMEOUT:
            timer = threading.Timer(again, self._abort_until_gone, (list(requests), 2 * again))
            timer.daemon = True
            timer.start()


class Request:
    """One request until the end of its answer: in flight, closed, aborted if left early, and sent again where
    that is safe and there is time. Generating twice only computes twice, and the earlier attempt is aborted,
    or gone with its server."""

    def __init__(self, requests: Requests, sid: str, path: str = "/generate"):
        self.sid, self.path, self.rid = sid, path, ""
        self.aborted = threading.Event()
        self.wire = Wire()
        self.payload: dict[str, Any] | None = None  # as sent last
        self.answer: Any = None
        self._requests, self._http = requests, requests.http
        self._rids: list[str] = []
        self._response: Response | None = None
        self._waits, self._failing_since, self._failures = 0, 0.0, 0

    def __enter__(self) -> "Request":
        self.sent_at = time.monotonic()
        limit = self._requests.limit_of(self.sid)
        self.deadline = Deadline(min(limit.deadline - self.sent_at, self._requests.timeout))
        self._retry_for = min(limit.retry_for, self._requests.retry_for)
        return self

    def __exit__(self, kind, error, _) -> None:
        self.close()
        self._requests.unregister(self)
        if kind and not self.aborted.is_set() and not isinstance(error, ServerUnreachable):
            self._abort_on_server()
        if self._requests.on_request is not None:
            record = RequestRecord(
                self.sid, self.path, self.payload, self.answer, error, self.sent_at, self.times()["seconds"]
            )
            self._requests.on_request(record)

    def send(self, payload: dict[str, Any]) -> Response:
        """Send it, each time under a new id: the server may still have the earlier one."""
        self._requests.register(self)
        self.payload = payload
        prompts = payload["input_ids"] if is_batch(payload) else None
        self._rids = [f"{self.rid}-{i}" for i in range(len(prompts))] if prompts else [self.rid]
        body = msgspec.json.encode({**payload, "rid": self._rids if prompts else self.rid})
        self._response = self._http.send("POST", self.path, self.deadline, body, self.wire)
        return self._response

    def check(self, answer: Any) -> Any:
        """Keep a parsed answer, or a stream's event, if it is one to what was sent.

        Raises:
            RequestAborted: this request was aborted.
            ServerError: the answer is an error, or not an answer.
        """
        if isinstance(answer, dict) and "error" in answer:
            raise self._http.refusal(200, answer)
        for part in each(answer):
            check_answer(self._http.url, part, embedding=self.path == "/classify")
            self._check_not_aborted(part["meta_info"])
        payload = self.payload or {}
        several = is_batch(payload) or payload.get("sampling_params", {}).get("n", 1) > 1
        if isinstance(answer, list) != several or answer == []:
            raise ServerFailed(f"{self._http.url} sent something that is not an answer of SGLang's")
        self.answer = answer
        return answer

    def _check_not_aborted(self, meta: dict[str, Any]) -> None:
        reason = meta.get("finish_reason") or {}
        if reason.get("type") != "abort" and not self.aborted.is_set():
            return
        why = one_line(str(reason.get("message") or "it was aborted"))
        message = f"{self._http.url} ended a request before it was done: {why}"
        if self.aborted.is_set():
            raise RequestAborted(message, {**meta, **self.times()})
        if type(status := reason.get("status_code")) is int:  # a stream has no other way to say it
            raise self._http.refusal(status, message)
        raise ServerFailed(message)

    def wait_to_retry(self, error: ServerError) -> None:
        """Abort what was sent, and wait until it may be sent again.

        Raises:
            ServerError: the error, where there is no time to try again.
            RequestAborted: the request was aborted.
        """
        self.close()
        self._abort_on_server()
        now, wait = time.monotonic(), min(FIRST_WAIT * 2**self._waits, LONGEST_WAIT)
        self._failing_since = self._failing_since or now
        self._failures += isinstance(error, ServerFailed)
        until = min(self.deadline.at, self._failing_since + self._retry_for if self._waits else math.inf)
        if (now + wait > until or self._failures >= MAX_FAILURES) and not self.aborted.is_set():
            if self._waits:
                seconds = now - self._failing_since
                error.args = (f"{error} (tried {self._waits + 1} times in {seconds:.1f} s)",)
            raise error
        if not self._waits and self._retry_for:
            limit = "" if isinstance(error, ServerFailed) else f" for {self._retry_for:g} s"
            log.warning("%s; the request is sent again%s", error, limit)
        self._waits += 1
        if self.aborted.wait(wait):
            raise self.abort_error(self.answer and self.answer["meta_info"])

    def made_progress(self) -> None:
        """The server answers again: a later failure has the full time for retries."""
        self._waits, self._failing_since = 0, 0.0

    def times(self) -> dict[str, float]:
        """When it was sent, on the clock of `time.monotonic`, and for how many seconds it has run."""
        return {"sent_at": self.sent_at, "seconds": time.monotonic() - self.sent_at}

    def abort_error(self, meta: dict[str, Any] | None = None) -> RequestAborted:
        """The error for what was aborted while nothing of it was on the server.

        Args:
            meta: the meta information of what had come of the answer, if any.
        """
        return RequestAborted(f"the state was aborted; nothing more was sent to {self._http.url}", meta)

    def close(self) -> None:
        """Give the connection back, if there is one."""
        if self._response is not None:
            self._response.close()
            self._response = None

    def _abort_on_server(self) -> None:
        """Wait only a moment: a server that hangs does not answer this either."""

        def post() -> None:
            for rid in self._rids:
                if self._requests.aborts.post(rid) is None:
                    break

        _start(post).join(ABORT_WAIT)


def is_batch(payload: dict[str, Any]) -> bool:
    """Whether a payload has several prompts."""
    ids = payload["input_ids"]
    return bool(ids) and isinstance(ids[0], list)


def _sid(state: ProgramState) -> str:
    return state.stream_executor.sid


def _requests_of(state: ProgramState) -> Requests:
    return state.stream_executor.backend.requests


def _start(target, *args) -> threading.Thread:
    thread = threading.Thread(target=target, args=args, daemon=True)
    thread.start()
    return thread
