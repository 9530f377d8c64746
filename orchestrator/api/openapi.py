"""The served OpenAPI: every 4xx and 5xx is the one problem body, every key is optional where none is set."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from orchestrator.api.wire import PROBLEM_MEDIA_TYPE, Problem

_SENTENCE = {
    400: "The request is understood but wrong; the sentence names the field and the remedy.",
    401: "A key is set on this deployment and was not sent.",
    404: "There is no such thing.",
    409: "The request contradicts what is stored.",
    413: "A file or an image is over its limit.",
    422: "A field is missing or of the wrong type.",
    428: "A calibration is required and none is in force.",
    429: "All slots are taken; come back after Retry-After.",
    500: "An internal error; the log holds its trace under the request id.",
    501: "This family of the API is not part of this release.",
    503: "The feature model or the store is not available; come back after Retry-After.",
    504: "The feature model did not answer in time.",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Declare the problems that a route can answer with."""
    return {status: {"model": Problem, "description": _SENTENCE[status]} for status in statuses}


def install(app: FastAPI) -> None:
    """Replace the generated document's error bodies and security."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        routes=app.routes,
        tags=app.openapi_tags,
    )
    schema = {"$ref": "#/components/schemas/Problem"}
    for path in document["paths"].values():
        for operation in path.values():
            for status, response in operation["responses"].items():
                if status.isdigit() and int(status) >= 400:
                    response["content"] = {PROBLEM_MEDIA_TYPE: {"schema": schema}}
                    response["description"] = _SENTENCE.get(int(status), response["description"])
    schemas = document["components"]["schemas"]
    for generated in ("HTTPValidationError", "ValidationError"):
        schemas.pop(generated, None)
    document["components"]["securitySchemes"] = {
        "ApiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        "Bearer": {"type": "http", "scheme": "bearer"},
    }
    # The empty alternative: without BACKEND_API_KEY there is no authentication.
    document["security"] = [{}, {"ApiKey": []}, {"Bearer": []}]
    return document
