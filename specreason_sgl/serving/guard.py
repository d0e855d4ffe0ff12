"""Who may call the server, under which host name, and how much may be sent: checked before anything else."""

import asyncio
import hmac

from specreason_sgl.serving.refusals import ApiError
from specreason_sgl.serving.settings import Settings

BODY_TIMEOUT = 60.0  # seconds
OPEN = ("/", "/health", "/metrics")  # need no key


class Guard:
    """ASGI middleware: checks host and key, reads the body up to its limit, then passes the request on."""

    def __init__(self, app, settings: Settings):
        self.app, self.settings = app, settings

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = {name.lower(): value for name, value in scope["headers"]}
        try:
            self._check_host(headers.get(b"host", b""))
            if scope["path"] not in OPEN:
                self._check_key(headers.get(b"authorization", b""))
            body = await self._read(receive)
        except ApiError as error:
            return await error.response()(scope, receive, send)
        if body is None:
            return None
        if scope["method"] == "HEAD":  # the server sends no body to it
            scope = {**scope, "method": "GET"}
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay():
            return messages.pop() if messages else await receive()

        return await self.app(scope, replay, send)

    def _check_host(self, host: bytes) -> None:
        name = host.decode("latin-1").rpartition(":")[0] if host.count(b":") == 1 else host.decode("latin-1")
        name = name.partition("]")[0] + "]" if name.startswith("[") else name
        if self.settings.hosts and name.lower() not in self.settings.hosts:
            raise ApiError(403, f"the host must be one of {', '.join(self.settings.hosts)}, got {name!r}")

    def _check_key(self, authorization: bytes) -> None:
        if self.settings.api_key is None:
            return
        scheme, _, key = authorization.partition(b" ")
        is_right = hmac.compare_digest(key.strip(), self.settings.api_key.encode())
        if scheme.lower() != b"bearer" or not is_right:
            raise ApiError(
                401,
                "a valid API key is required, as Authorization: Bearer KEY",
                "authentication_error",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    async def _read(self, receive) -> bytes | None:
        """The whole body, or None if the client has gone."""
        parts, size = [], 0
        try:
            async with asyncio.timeout(BODY_TIMEOUT):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > self.settings.max_body:
                        raise ApiError(413, f"the request must have at most {self.settings.max_body} bytes")
                    if not message.get("more_body"):
                        return b"".join(parts)
        except TimeoutError:
            raise ApiError(408, f"the request was not received within {BODY_TIMEOUT:g} s") from None
