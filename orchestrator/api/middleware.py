"""What happens around every request: its ids, its log line, its key, and the last resort for a failure."""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.api.errors import respond, respond_internal, respond_to
from orchestrator.api.wire import Call
from orchestrator.errors import Unauthorized

OPEN_PATHS = frozenset({"/", "/health", "/livez", "/readyz"})
Observe = Callable[[str, str, int, float], None]

_log = structlog.get_logger()


class CallMiddleware:
    """Outermost: opens the call, puts its ids on the response, writes its log line and metrics."""

    def __init__(self, app: ASGIApp, *, observe: Observe | None = None) -> None:
        self._app = app
        self._observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        structlog.contextvars.clear_contextvars()
        call = Call(scope)
        scope.setdefault("state", {})["call"] = call
        started = time.perf_counter()
        status = 0

        async def send_with_ids(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                response = MutableHeaders(scope=message)
                response["X-Request-Id"] = call.request_id
                response["X-Recipe-Id"] = call.recipe_id
                response["X-Content-Type-Options"] = "nosniff"
            await send(message)

        try:
            await self._app(scope, receive, send_with_ids)
        finally:
            self._finish(scope, call, status, time.perf_counter() - started)

    def _finish(self, scope: Scope, call: Call, status: int, seconds: float) -> None:
        failed = not 200 <= status < 400
        line = {
            **call.facts,
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "elapsed_ms": round(seconds * 1e3, 2),
        }
        if not failed:
            # Probes come every few seconds, for ever.
            write = _log.debug if scope["path"] in OPEN_PATHS else _log.info
            write(f"{call.operation}.response", **line)
        else:
            (_log.error if status >= 500 or status == 0 else _log.warning)(f"{call.operation}.error", **line)
        if self._observe is not None:
            self._observe(call.route, scope["method"], status, seconds)


class CorsMiddleware(CORSMiddleware):
    """Starlette's, but for a refused preflight: it answers the one problem body too."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            asks = "origin" in headers and "access-control-request-method" in headers
            if scope["method"] == "OPTIONS" and asks:
                response = self.preflight_response(headers)
                if response.status_code >= 400:
                    response = _refused_preflight(scope["state"]["call"], response)
                await response(scope, receive, send)
                return
        await super().__call__(scope, receive, send)


def _refused_preflight(call: Call, response: Response) -> Response:
    sentence = bytes(response.body).decode() + "; see BDI_CORS_ORIGINS."
    kept = {k: v for k, v in response.headers.items() if k.startswith("access-control-") or k == "vary"}
    return respond(call, response.status_code, "cors_refused", sentence, headers=kept)


class GuardMiddleware:
    """Innermost: asks for the key where one is set, and turns an unforeseen failure into an opaque 500."""

    def __init__(self, app: ASGIApp, *, api_key: str | None, debug: bool) -> None:
        self._app = app
        self._api_key = None if api_key is None else api_key.encode()
        self._debug = debug

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        call: Call = scope["state"]["call"]
        if self._api_key is not None and scope["path"] not in OPEN_PATHS and not _knows(scope, self._api_key):
            error = Unauthorized("a valid key is needed; send it as X-API-Key or as Authorization: Bearer.")
            await respond_to(call, error)(scope, receive, send)
            return
        began = False

        async def watch(message: Message) -> None:
            nonlocal began
            began = began or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, watch)
        except Exception as error:
            if began:
                raise
            await respond_internal(call, error, debug=self._debug)(scope, receive, send)


def _knows(scope: Scope, key: bytes) -> bool:
    headers = Headers(scope=scope)
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    sent = [headers.get("x-api-key", ""), bearer.strip() if scheme.lower() == "bearer" else ""]
    # Header bytes arrive as Latin-1 text; both are always compared.
    matches = [hmac.compare_digest(candidate.encode("latin-1"), key) for candidate in sent]
    return any(matches)
