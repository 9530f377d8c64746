"""What every route shares on the wire: the call's ids, the problem body, uploads, numbers."""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from typing import Annotated, Any

import structlog
from fastapi import Header, Request, UploadFile
from pydantic import BaseModel, ConfigDict
from starlette.datastructures import Headers, QueryParams
from starlette.types import Scope

from orchestrator.domain.identity import DEFAULT_RECIPE, Part, Target, normalise_recipe
from orchestrator.errors import InvalidInput, PatchlightError
from orchestrator.features.base import CallContext, Priority
from orchestrator.runtime import Runtime
from orchestrator.services.embed import Photograph, RawShape

PROBLEM_MEDIA_TYPE = "application/problem+json"
MAX_NAME = 255
_REQUEST_ID = re.compile(r"[\x20-\x7e]{1,128}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")

_log = structlog.get_logger()


class Closed(BaseModel):
    """A response body that holds what it declares and nothing else."""

    model_config = ConfigDict(extra="forbid")


class Problem(Closed):
    """The one error body (RFC 9457); `detail` and `error` carry the same sentence for two generations of clients."""

    type: str
    title: str
    status: int
    detail: str
    error: str
    error_code: str
    request_id: str
    recipe_id: str
    trace: str | None = None


class Call:
    """One request's identity, and what its log lines say; the recipe becomes known when its body has been read."""

    def __init__(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        request_id, traceparent = headers.get("x-request-id"), headers.get("traceparent")
        usable = request_id is not None and _REQUEST_ID.fullmatch(request_id)
        self.request_id = request_id if usable and request_id else str(uuid.uuid4())
        self.traceparent = traceparent if traceparent and _TRACEPARENT.fullmatch(traceparent) else None
        self.facts: dict[str, Any] = {}
        self._scope = scope
        self._recipe_header = headers.get("x-recipe-id")
        self._recipe_query = QueryParams(scope.get("query_string", b"")).get("recipe_id")
        try:
            self.recipe_id = normalise_recipe(self._recipe_header)
        except PatchlightError:
            # Refused by the route, in `recipe`; the answer itself still needs a recipe to name.
            self.recipe_id = DEFAULT_RECIPE
        structlog.contextvars.bind_contextvars(request_id=self.request_id, recipe_id=self.recipe_id)

    @property
    def route(self) -> str:
        """The path template of the route, for metrics; `unmatched` where there is none."""
        return str(getattr(self._scope.get("route"), "path", "unmatched"))

    @property
    def operation(self) -> str:
        """What the log's events begin with: the route's name."""
        return str(getattr(self._scope.get("route"), "name", "http"))

    def recipe(self, explicit: str | None = None) -> str:
        """Settle the recipe: body, form or query, then header, then default.

        Raises InvalidRecipe.
        """
        self.recipe_id = normalise_recipe(explicit, self._recipe_query, self._recipe_header)
        structlog.contextvars.bind_contextvars(recipe_id=self.recipe_id)
        return self.recipe_id

    def part(self, recipe_id: str | None, role_id: str, roi_id: str) -> Part:
        """Settle the recipe and name the part that the request is about.

        Raises InvalidRecipe, InvalidIdentifier.
        """
        part = Part.of(self.recipe(recipe_id), role_id, roi_id)
        self._about(role_id=part.role_id, roi_id=part.roi_id)
        return part

    def target(
        self, recipe_id: str | None, role_id: str, roi_id: str, model_key: str | None = None
    ) -> Target:
        """Settle the recipe and name the target that the request is about.

        Raises InvalidRecipe, InvalidIdentifier.
        """
        target = Target.of(self.recipe(recipe_id), role_id, roi_id, model_key or None)
        self._about(role_id=target.part.role_id, roi_id=target.part.roi_id, model_key=target.model_key)
        return target

    def note(self, **facts: Any) -> None:
        """Add to the closing log line; what is None is left out."""
        self.facts.update({k: v for k, v in facts.items() if v is not None})

    def failed_with(self, code: str, sentence: str) -> None:
        """Say in the closing log line why the request was refused."""
        self.note(error_code=code, error=sentence)

    def context(self, timeout_s: float, priority: Priority = Priority.INSPECT) -> CallContext:
        """Give what a feature call carries."""
        return CallContext(self.request_id, timeout_s, priority, self.traceparent)

    def _about(self, **ids: str) -> None:
        structlog.contextvars.bind_contextvars(**ids)
        if self._scope["method"] == "POST":
            _log.info(f"{self.operation}.request")


def current_call(
    request: Request,
    _recipe: Annotated[
        str | None, Header(alias="X-Recipe-Id", description="Recipe, unless the request itself names one.")
    ] = None,
    _request_id: Annotated[
        str | None, Header(alias="X-Request-Id", description="Echoed verbatim; made where absent.")
    ] = None,
) -> Call:
    """Dependency: the call that the middleware has opened."""
    call: Call = request.scope["state"]["call"]
    return call


def current_runtime(request: Request) -> Runtime:
    """Dependency: what this process serves with."""
    runtime: Runtime = request.app.state.runtime
    return runtime


async def read_images(
    uploads: Sequence[UploadFile], runtime: Runtime, shape: RawShape = None
) -> list[Photograph]:
    """Read uploaded images; of one over the limit only as much as shows it, for the decoder to refuse.

    Raises InvalidInput where there are too many.
    """
    settings = runtime.settings
    if len(uploads) > settings.max_images:
        raise InvalidInput(f"images: {len(uploads)} were sent; at most {settings.max_images} in one request.")
    images = []
    for upload in uploads:
        name = printable(upload.filename or "image")[:MAX_NAME]
        images.append(Photograph(await upload.read(settings.max_image_bytes + 1), name, shape))
    return images


def printable(text: str) -> str:
    """Escape what UTF-8 cannot carry: lone surrogates, which odd charsets and JSON escapes can bring."""
    return text.encode("utf-8", "backslashreplace").decode()


def number(value: float) -> int | float:
    """Give an integer where the value is integral: some published clients read an integer here."""
    return int(value) if float(value).is_integer() else float(value)
