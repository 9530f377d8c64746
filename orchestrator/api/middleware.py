"""What happens around every request: its ids, its log line, its key, and the last resort for a failure."""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.api.errors import respond_internal, respond_to
from orchestrator.api.wire import Call
from orchestrator.errors import PatchlightError, Unauthorized

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
        headers = Headers(scope=scope)
        call = Call(headers.get("x-request-id"), headers.get("x-recipe-id"), headers.get("traceparent"))
        scope.setdefault("state", {})["call"] = call
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=call.request_id)
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
        route = getattr(scope.get("route"), "path", "unmatched")
        line = {
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "recipe_id": call.recipe_id,
            "elapsed_ms": round(seconds * 1e3, 2),
        }
        error = scope["state"].get("error")
        if isinstance(error, PatchlightError):
            line |= {"error": error.message, "error_code": error.code}
        (_log.warning if status >= 500 else _log.info)("http.request", **line)
        if self._observe is not None:
            self._observe(route, scope["method"], status, seconds)


class GuardMiddleware:
    """Innermost: asks for the key where one is set, and turns an unforeseen failure into an opaque 500."""

    def __init__(self, app: ASGIApp, *, api_key: str | None, debug: bool) -> None:
        self._app = app
        self._api_key = api_key
        self._debug = debug

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        call: Call = scope["state"]["call"]
        if self._api_key is not None and scope["path"] not in OPEN_PATHS and not self._is_known(scope):
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
            _log.exception("http.failed", path=scope["path"], recipe_id=call.recipe_id)
            if began:
                raise
            await respond_internal(call, error, debug=self._debug)(scope, receive, send)

    def _is_known(self, scope: Scope) -> bool:
        headers = Headers(scope=scope)
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        sent = headers.get("x-api-key") or (bearer.strip() if scheme.lower() == "bearer" else "")
        expected = self._api_key or ""
        return hmac.compare_digest(sent.encode("utf-8", "replace"), expected.encode("utf-8", "replace"))
