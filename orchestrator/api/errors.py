"""The one table from exceptions to statuses, and the one body that carries them."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import compile_path

from orchestrator import errors
from orchestrator.api.wire import PROBLEM_MEDIA_TYPE, Call, Problem, printable

STATUS: dict[type[errors.PatchlightError], int] = {
    errors.InvalidInput: 400,
    errors.InvalidIdentifier: 422,
    errors.TooLarge: 413,
    errors.Unauthorized: 401,
    errors.NotFound: 404,
    errors.NotBuilt: 501,
    errors.MemoryNotFitted: 400,
    errors.CalibrationMissing: 428,
    errors.Conflict: 409,
    errors.BankOptionsUnknown: 409,
    errors.Overloaded: 429,
    errors.FeaturesUnavailable: 503,
    errors.GpuUnavailable: 503,
    errors.StoreUnavailable: 503,
    errors.DeadlineExceeded: 504,
    errors.PatchlightError: 500,
}
RETRY_AFTER_S = {429: "1", 503: "1", 504: "1"}
_OPAQUE = "an internal error; the log holds its trace under this request id."
_PLACE = {"body": "request body", "query": "query", "path": "path", "header": "headers"}

_log = structlog.get_logger()


def status_of(error: errors.PatchlightError) -> int:
    """Look an exception's status up, by the order of its classes."""
    return next(STATUS[cls] for cls in type(error).__mro__ if cls in STATUS)


def respond(
    call: Call,
    status: int,
    code: str,
    sentence: str,
    *,
    headers: Mapping[str, str] | None = None,
    trace: str | None = None,
) -> Response:
    """Answer with a problem, and leave it on the call for its log line.

    Overload and outage say when to come back.
    """
    call.failed_with(code, sentence)
    said = printable(sentence)
    body = Problem(
        type=f"urn:patchlight:error:{code}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=said,
        error=said,
        error_code=code,
        request_id=call.request_id,
        recipe_id=call.recipe_id,
        trace=None if trace is None else printable(trace),
    )
    extra = dict(headers or {})
    if status in RETRY_AFTER_S:
        extra["Retry-After"] = RETRY_AFTER_S[status]
    if status == 401:
        extra["WWW-Authenticate"] = "Bearer"
    content = body.model_dump_json(exclude_none=True)
    return Response(content, status, headers=extra, media_type=PROBLEM_MEDIA_TYPE)


def respond_to(call: Call, error: errors.PatchlightError, *, debug: bool = False) -> Response:
    """Answer with a product error; what is not the caller's doing stays opaque."""
    status = status_of(error)
    if status == 500:
        return respond_internal(call, error, debug=debug, code=error.code)
    return respond(call, status, error.code, error.message)


def respond_internal(call: Call, error: Exception, *, debug: bool, code: str = "internal_error") -> Response:
    """Answer with a 500: the trace goes to the log, and into the body only while debugging."""
    _log.error("http.failed", exc_info=error)
    trace = "".join(traceback.format_exception(error)) if debug else None
    return respond(call, 500, code, _OPAQUE, trace=trace)


def install(app: FastAPI, *, debug: bool) -> None:
    """Give the app its exception handlers."""

    async def product(request: Request, error: Exception) -> Response:
        assert isinstance(error, errors.PatchlightError)
        return respond_to(_call(request), error, debug=debug)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return respond(_call(request), 422, "validation_error", "; ".join(_sentences(error.errors())))

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        headers = dict(error.headers or {})
        sentence = str(error.detail)
        match error.status_code:
            case 400:
                sentence = f"body: cannot be read; send a form or JSON as /docs describes it. {sentence}"
            case 404:
                sentence = f"there is no route {request.url.path}; see /docs."
            case 405:
                headers["Allow"] = ", ".join(_methods(app, request.url.path))
                sentence = f"{request.method} is not allowed here; use {headers['Allow']}."
        code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
        return respond(_call(request), error.status_code, code, sentence, headers=headers)

    app.add_exception_handler(errors.PatchlightError, product)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)


def _call(request: Request) -> Call:
    call: Call = request.scope["state"]["call"]
    return call


def _sentences(found: Iterable[Any]) -> list[str]:
    sentences = []
    for error in found:
        where, *path = error["loc"]
        field = ".".join(str(p) for p in path) or str(where)
        if error["type"] == "missing":
            sentences.append(f"{field}: is missing; send it in the {_PLACE.get(str(where), str(where))}.")
        elif error["type"] == "json_invalid":
            sentences.append("body: is not valid JSON; send one JSON object.")
        elif error["type"] == "value_error":
            sentences.append(str(error["ctx"]["error"]))
        else:
            shown = repr(error.get("input"))
            shown = shown if len(shown) <= 60 else shown[:57] + "..."
            sentences.append(f"{field}: {error['msg']}; got {shown}.")
    return sentences


def _methods(app: FastAPI, path: str) -> list[str]:
    # Starlette names the methods of the first route that matches the path; a path may have several.
    allowed: set[str] = set()
    for template, operations in app.openapi()["paths"].items():
        if compile_path(template)[0].fullmatch(path.rstrip("/") or "/"):
            allowed |= {method.upper() for method in operations}
    return sorted(allowed) or ["GET"]
