"""Telling a server, or the servers behind a router, to end a request."""

import contextlib
import logging
import threading

from specreason_sgl.errors import SpecReasonError
from specreason_sgl.lang.answers import reading
from specreason_sgl.lang.http import CONNECT_TIMEOUT, REFUSED, Http

log = logging.getLogger(__name__)


class Aborts:
    """Posts aborts to one server."""

    def __init__(self, http: Http):
        self._http = http
        self._warning = threading.Lock()  # taken by the only thread that warns

    def post(self, rid: str) -> int | None:
        """Tell the server to end a request, by its id.

        Returns:
            The status of the answer, one of `REFUSED` where the server wants another key; None where nobody
            answered.
        """
        status = _post(self._http, rid)
        if status == 404:  # sglang-router (0.3.2) does not pass an abort on
            status = self._post_to_workers(rid)
        if status in REFUSED and self._warning.acquire(blocking=False):
            log.warning(
                "%s refuses to abort requests: it wants its --admin-api-key; their connections are closed "
                "instead, which SGLang notices within seconds",
                self._http.url,
            )
        return status

    def _post_to_workers(self, rid: str) -> int | None:
        with contextlib.suppress(SpecReasonError), reading(self._http.url):
            statuses = []
            for worker in self._http.json("GET", "/workers")["workers"]:
                http = Http(worker["url"], self._http.api_key)
                statuses.append(_post(http, rid))
                http.close()
            return next((status for status in REFUSED if status in statuses), 404)
        return None


def _post(http: Http, rid: str) -> int | None:
    with contextlib.suppress(SpecReasonError):  # a server that is gone runs nothing
        status, _ = http.call("POST", "/abort_request", {"rid": rid}, timeout=CONNECT_TIMEOUT)
        return status
    return None
