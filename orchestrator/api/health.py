"""Is it alive, is it ready, what does it serve with: the routes that need no key."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request, Response

from orchestrator import __version__
from orchestrator.api.openapi import problems
from orchestrator.api.wire import Call, Closed, current_call, current_runtime
from orchestrator.errors import NotFound
from orchestrator.runtime import Runtime

router = APIRouter(tags=["health"])


class RootResponse(Closed):
    """The process answers."""

    status: Literal["ok"]
    name: str
    version: str
    docs: str
    request_id: str
    recipe_id: str


class HealthResponse(Closed):
    """The feature model answers."""

    status: Literal["ok"]
    device: str
    model: str
    version: str
    reason: str | None
    uptime_s: float
    model_version: str
    feature_backend: Literal["triton", "onnxruntime"]
    roles_loaded: list[str]
    drift: Literal["on", "off", "unavailable"]
    drift_reason: str | None
    request_id: str
    recipe_id: str


class ProbeResponse(Closed):
    """A probe's answer."""

    status: Literal["ok"]
    request_id: str
    recipe_id: str


@router.get("/", name="root", summary="Say that the server is there")
async def root(call: Annotated[Call, Depends(current_call)]) -> RootResponse:
    """Answer without touching store or model."""
    return RootResponse(
        status="ok",
        name="Patchlight",
        version=__version__,
        docs="/docs",
        request_id=call.request_id,
        recipe_id=call.recipe_id,
    )


@router.get(
    "/health",
    name="health",
    summary="Name the feature model, or say why it is not ready",
    responses=problems(400, 500, 503),
)
async def health(
    call: Annotated[Call, Depends(current_call)], runtime: Annotated[Runtime, Depends(current_runtime)]
) -> HealthResponse:
    """Answer 503 while the feature model is not ready."""
    state = await runtime.states.health(call.recipe())
    await runtime.drift.check()
    return HealthResponse(
        status="ok",
        device=runtime.settings.device,
        model=state.backbone,
        version=__version__,
        reason=state.reason,
        uptime_s=round(state.uptime_s, 3),
        model_version=state.model_version,
        feature_backend=runtime.extractor.backend,
        roles_loaded=state.roles,
        drift=runtime.drift.status,
        drift_reason=runtime.drift.fault,
        request_id=call.request_id,
        recipe_id=call.recipe_id,
    )


@router.get("/livez", name="livez", summary="Liveness probe")
async def livez(call: Annotated[Call, Depends(current_call)]) -> ProbeResponse:
    """Answer as long as the process does."""
    return ProbeResponse(status="ok", request_id=call.request_id, recipe_id=call.recipe_id)


@router.get("/readyz", name="readyz", summary="Readiness probe", responses=problems(503))
async def readyz(
    call: Annotated[Call, Depends(current_call)], runtime: Annotated[Runtime, Depends(current_runtime)]
) -> ProbeResponse:
    """Answer 200 while the store can be written; a Triton that is down degrades, it does not unready."""
    await asyncio.to_thread(runtime.states.check_store)
    return ProbeResponse(status="ok", request_id=call.request_id, recipe_id=call.recipe_id)


_EXPOSITION: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Prometheus exposition."}
}


@router.get(
    "/metrics",
    summary="Prometheus metrics, where they are enabled",
    response_class=Response,
    responses={**_EXPOSITION, **problems(401, 404)},
)
async def metrics(
    request: Request,
    _: Annotated[Call, Depends(current_call)],
    runtime: Annotated[Runtime, Depends(current_runtime)],
) -> Response:
    """Answer 404 unless ENABLE_METRICS is set."""
    if not runtime.settings.enable_metrics:
        raise NotFound("metrics are off; set ENABLE_METRICS=true.")
    content = await asyncio.to_thread(request.app.state.metrics.render)
    return Response(content, media_type="text/plain; version=0.0.4")
