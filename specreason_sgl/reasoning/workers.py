"""`Workers`: processes that solve problems, each with connections of its own."""

import itertools
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from multiprocessing.reduction import ForkingPickler
from typing import Any

import msgspec

from specreason_sgl.errors import ConfigError, RequestAborted, SpecReasonError, WorkerDied
from specreason_sgl.processes import GRACE, Pipe, Worker, end_within
from specreason_sgl.reasoning.run import Cancel
from specreason_sgl.reasoning.trace import Trace

ABORT = "abort"  # a message to a worker, beside problems and None

Work = Callable[[Any], Trace]
Answer = tuple[bytes, BaseException | None]  # the trace as MessagePack, or what the problem failed with


class Workers:
    """Calls a function in other processes: `workers(item)`, from as many threads as items are solved at once.

    Processes start when they are needed. Of one that dies, the problems in progress raise `WorkerDied`, and
    the next problem starts another one.

    Args:
        work: makes a trace of an item, on endpoints that it holds; takes `cancel`, as `solve` does. Each
            process gets a copy, whose endpoints are connected anew.
        processes: their number.
        threads: the most items that a process solves at once.

    Raises:
        ConfigError: `work` cannot be sent to another process.
    """

    def __init__(self, work: Callable[..., Trace], processes: int, threads: int):
        cancel = Cancel()
        try:
            program = bytes(ForkingPickler.dumps((partial(work, cancel=cancel), cancel)))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ConfigError(
                f"with several processes, what judges and repairs must be functions and classes of a module: "
                f"{error}"
            ) from None
        self._slots = [_Slot(program, threads) for _ in range(processes)]
        self._lock = threading.Lock()

    def __call__(self, item: Any) -> Trace:
        with self._lock:
            answer = min(self._slots, key=lambda slot: slot.in_progress).ask(item)
        trace, error = answer.result()
        if error:
            raise error
        return msgspec.msgpack.decode(trace, type=Trace)

    def abort(self) -> None:
        """Abort what is in progress; what is asked for later raises `RequestAborted`."""
        for slot in self._slots:
            slot.abort()

    abort_all = abort  # what `Cancel` calls

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        for slot in self._slots:
            slot.end()
        for slot in self._slots:
            slot.join()


class _Slot:
    """A worker process, or the place for one."""

    def __init__(self, program: bytes, threads: int):
        self._program, self._threads = program, threads
        self._numbers = itertools.count()
        self._asked: dict[int, Future[Answer]] = {}
        self._is_aborted = False
        self._worker: Worker | None = None
        self._reader = threading.Thread()
        self._lock = threading.Lock()

    @property
    def in_progress(self) -> int:
        return len(self._asked)

    def ask(self, item: Any) -> Future[Answer]:
        """Have the worker solve a problem, in a new process if there is none."""
        with self._lock:
            if self._is_aborted:
                raise RequestAborted("the batch was cancelled before this was solved")
            if self._worker is None:
                self._worker = Worker(_solve_problems, self._program, self._threads)
                self._reader = threading.Thread(target=self._read, args=(self._worker,), daemon=True)
                self._reader.start()
            number = next(self._numbers)
            answer = self._asked[number] = Future()
            self._worker.pipe.send((number, item))
        return answer

    def abort(self) -> None:
        with self._lock:
            self._is_aborted = True
            if self._worker:
                self._worker.pipe.send(ABORT)

    def end(self) -> None:
        with self._lock:
            if self._worker:
                self._worker.end()

    def join(self) -> None:
        """Wait until the worker has ended."""
        if self._reader.ident:
            self._reader.join()

    def _read(self, worker: Worker) -> None:
        try:
            while True:
                number, answer = worker.pipe.receive()
                self._asked.pop(number).set_result(answer)
        except EOFError:
            status = worker.join()
        with self._lock:
            lost, self._asked, self._worker = self._asked, {}, None
        for answer in lost.values():
            answer.set_exception(
                WorkerDied(f"the worker process {worker.pid} ended with status {status}; solve this again")
            )


# In a worker.


def _solve_problems(pipe: Pipe, program: bytes, threads: int) -> None:
    """Solve the problems that come in, until there are no more to come."""
    work, cancel = _load(program)

    def solve(number: int, item: Any) -> None:
        trace, failure = b"", None
        try:
            trace = msgspec.msgpack.encode(work(item))
        except BaseException as error:
            failure = _sendable(error)
        pipe.send((number, (trace, failure)))

    with ThreadPoolExecutor(threads) as pool:
        try:
            while (message := pipe.receive()) is not None:
                if message == ABORT:
                    cancel()
                else:
                    pool.submit(solve, *message)
        except EOFError:
            pass
        end_within(GRACE)
        cancel()


def _load(program: bytes) -> tuple[Work, Cancel]:
    """Connect to the servers. Where that fails, each problem fails with the error."""
    try:
        return pickle.loads(program)
    except Exception as error:
        failure = error

    def fail(_: Any) -> Trace:
        raise failure

    return fail, Cancel()


def _sendable(error: BaseException) -> BaseException:
    """The error, or, where it cannot be pickled, one that says the same."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return SpecReasonError(f"{type(error).__name__}: {error}")
    return error
