"""Workarounds for SGLang. Each names the version that needs it; delete it once SGLang has fixed the cause."""

import gc
import threading
from typing import Any

from sglang.lang.interpreter import ProgramState, StreamExecutor
from sglang.lang.ir import SglSamplingParams

from specreason_sgl.errors import SpecReasonError

# Errors (0.5.23). The interpreter turns an exception in a state's thread into a warning and a later
# `KeyError`, and `fork` copies nothing but the text. Delete when `StreamExecutor` raises a worker's exception
# where the program reads a result, in forks too.


class errors_to:
    """Keep an error of this package for the program's own thread.

    The state is marked as failed instead of its thread dying, and reading its results raises. Other
    exceptions are bugs and take SGLang's way. Entering returns whether the state failed before.
    """

    def __init__(self, s: StreamExecutor):
        self._s = s

    def __enter__(self) -> bool:
        if error := failure_of(self._s):
            _mark_failed(self._s, error)
        return error is not None

    def __exit__(self, kind, error, _) -> bool:
        if not isinstance(error, SpecReasonError):
            return False
        _mark_failed(self._s, error)
        return True


def failure_of(s: StreamExecutor) -> SpecReasonError | None:
    """The error that a state, or one that it was forked from, failed with."""
    return getattr(s.text_, "error", None)


class _FailedText(str):
    """A failed state's text: carries the error through `+` and `str()`, and so into forks."""

    error: SpecReasonError

    def __new__(cls, text: str, error: SpecReasonError) -> "_FailedText":
        failed = super().__new__(cls, text)
        failed.error = error
        return failed

    def __str__(self):
        return self

    def __add__(self, other):
        return _FailedText(str.__add__(self, other), self.error)


class _FailedResults(dict):
    """A failed state's variables or meta information: what had not come by then raises the error."""

    def __init__(self, results: dict[str, Any], error: SpecReasonError):
        super().__init__(results)
        self.error = error

    def __missing__(self, name):
        raise self.error

    def __setitem__(self, name, value):
        pass

    def get(self, name, default=None):
        return self[name]


def _mark_failed(s: StreamExecutor, error: SpecReasonError) -> None:
    s.error_ = error
    s.text_ = _FailedText(s.text_, error)
    ready = {name for name, event in s.variable_event.items() if event.is_set()}
    for attribute in ("variables", "meta_info"):
        results = getattr(s, attribute)
        if not isinstance(results, _FailedResults):
            kept = {k: v for k, v in results.items() if k in ready or k not in s.variable_event}
            setattr(s, attribute, _FailedResults(kept, error))


# Ending a state twice (0.5.23). A state ends once more when it is deleted, and asks its thread whether it is
# alive. The garbage collector may delete it within a thread's start, which holds the lock that `is_alive`
# takes in Python before 3.13: a deadlock. Delete with Python 3.12, or when `end` remembers its first call.


class _EndedThread:
    """In the place of an ended state's thread."""

    def __init__(self, thread: threading.Thread):
        self.thread = thread

    def is_alive(self) -> bool:
        return False


def mark_ended(s: StreamExecutor) -> None:
    """Have a state that ends once more not ask its thread."""
    if s.use_thread and not isinstance(s.worker, _EndedThread):
        s.worker = _EndedThread(s.worker)


# States that nobody ends (0.5.23). A state has a thread, not a daemon, that waits for work until the state is
# deleted, and Python waits for that thread. An uncaught exception keeps the frames of its traceback, and so
# every fork that they hold, for ever. Delete when the interpreter's threads are daemons.

_watching_exit = threading.Lock()


def end_forgotten_states_at_exit(backend: type) -> None:
    """Let a script whose program failed end: abort and end the states on a kind of backend when the main
    thread has ended."""
    if _watching_exit.acquire(blocking=False):
        threading.Thread(target=_end_forgotten_states, args=(backend,), daemon=True).start()


def _end_forgotten_states(backend: type) -> None:
    main = threading.main_thread()
    main.join()
    while True:
        states = [
            state
            for state in gc.get_objects()
            if type(state) is StreamExecutor and state.use_thread and isinstance(state.backend, backend)
        ]
        waiting = {main, *(getattr(state.worker, "thread", state.worker) for state in states)}
        working = [thread for thread in threading.enumerate() if not thread.daemon and thread not in waiting]
        if not working:
            break
        working[0].join()  # it may still use a state
    for state in states:
        state.backend.abort(ProgramState(state))
        state.end()


class _Defaults(SglSamplingParams):
    """Sampling parameters that nobody changes: a shallow copy, with lists of its own, is a deep one."""

    def __deepcopy__(self, _memo: dict) -> SglSamplingParams:
        copied = {
            name: list(value) if isinstance(value, list) else value for name, value in vars(self).items()
        }
        return SglSamplingParams(**copied)


def copy_defaults_quickly(s: StreamExecutor) -> None:
    """Have a state, and its forks, copy the default sampling parameters quickly for each `gen`.

    `StreamExecutor` (0.5.23) takes `copy.deepcopy`, which needs 0.2 ms. Delete when it does not.
    """
    s.default_sampling_para = _Defaults(**vars(s.default_sampling_para))


def drop_first_logprob(meta: dict[str, Any]) -> None:
    """Drop the first prompt logprob, which is None, from the answer to a `select` (0.5.23).

    `RuntimeEndpoint.select` takes the list to begin after it, and `greedy_token_selection` fails on the None.
    Delete when they skip it themselves.
    """
    logprobs = meta.get("input_token_logprobs")
    if logprobs and logprobs[0][0] is None:
        del logprobs[0]
