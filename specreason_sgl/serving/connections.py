"""`Connection`: a connection of uvicorn's that waits for a request's head only so long."""

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_TIMEOUT = 30.0  # seconds for the head of a request, from its first byte, or from the connection's begin


class Connection(H11Protocol):
    """Closes a connection on which no whole head of a request comes. `Guard` limits the time of a body, and
    uvicorn (0.54) that between two requests."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._wait_for_head()

    def _wait_for_head(self) -> None:
        has_head = self.cycle is not None and not self.cycle.response_complete
        if has_head and self._timer:
            self._timer.cancel()
            self._timer = None
        elif not has_head and not self._timer:
            self._timer = self.loop.call_later(HEAD_TIMEOUT, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._timer:
            self._timer.cancel()
