"""`Slots`: how much runs at once, and how much may wait, first come, first served."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass


class QueueFull(Exception):
    """The queue has no room for another request."""


@dataclass(frozen=True)
class Ticket:
    """A place in the queue, for `count` slots; `granted` is done when they are free."""

    count: int
    granted: asyncio.Future[None]


class Slots:
    """A number of slots, and a queue for them. Belongs to one event loop.

    Args:
        running: number of slots.
        waiting: the most slots that may be waited for.
        on_change: called when slots are taken, waited for or free again.
    """

    def __init__(self, running: int, waiting: int, on_change: Callable[[], None] = lambda: None):
        self._all = self._free = running
        self._most_waiting, self._on_change = waiting, on_change
        self._queue: deque[Ticket] = deque()

    @property
    def taken(self) -> int:
        return self._all - self._free

    @property
    def waited_for(self) -> int:
        return sum(ticket.count for ticket in self._queue)

    def ask(self, count: int) -> Ticket:
        """Queue for `count` slots, at most all.

        Raises:
            QueueFull: too many wait already.
        """
        has_room = self.waited_for + count <= self._most_waiting
        if not has_room and (self._queue or count > self._free):
            raise QueueFull
        ticket = Ticket(count, asyncio.get_running_loop().create_future())
        self._queue.append(ticket)
        self._grant()
        return ticket

    def withdraw(self, ticket: Ticket) -> None:
        """Leave the queue, or give back what was granted."""
        if ticket in self._queue:
            self._queue.remove(ticket)
            self._grant()
        else:
            self.release(ticket.count)

    def release(self, count: int = 1) -> None:
        """Free slots."""
        self._free += count
        self._grant()

    def _grant(self) -> None:
        while self._queue and self._queue[0].count <= self._free:
            ticket = self._queue.popleft()
            self._free -= ticket.count
            # A deadline or a cancel may have ended the wait: `withdraw` follows.
            if not ticket.granted.done():
                ticket.granted.set_result(None)
        self._on_change()
