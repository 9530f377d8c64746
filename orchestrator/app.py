"""The application: routers, middleware, lifespan. No logic."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import structlog
from fastapi import FastAPI

from orchestrator import __version__
from orchestrator.api import errors, health, openapi
from orchestrator.api.inspection import calibrate, datasets, drift, explain, fit, infer, predict, state
from orchestrator.api.middleware import CallMiddleware, CorsMiddleware, GuardMiddleware
from orchestrator.errors import PatchlightError
from orchestrator.features.base import FeatureExtractor
from orchestrator.runtime import Runtime, build_runtime
from orchestrator.settings import Settings, load_settings
from orchestrator.telemetry import Metrics, configure_logging

STORE_THREADS = 64
MIGRATION_BUDGET_S = 30.0

_log = structlog.get_logger()


def create_app(settings: Settings | None = None, *, extractor: FeatureExtractor | None = None) -> FastAPI:
    """Build the application; nothing is read or connected before it starts.

    extractor: to serve with, in place of the one that the settings name.
    """
    chosen = settings or load_settings()
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        configure_logging(chosen.log_level)
        # Waiting for a writer's lock must not keep reads and heartbeats out of the loop's small default pool.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(STORE_THREADS, "store"))
        watch = metrics.observe_drift if chosen.enable_metrics else None
        runtime = build_runtime(chosen, extractor=extractor, observe_drift=watch)
        app.state.runtime = runtime
        try:
            await _start(runtime)
            yield
        finally:
            await runtime.close()

    app = FastAPI(
        title="Patchlight",
        version=__version__,
        description="Visual inspection: fit from good photographs, calibrate, then ask about every part.",
        lifespan=lifespan,
        redirect_slashes=False,
        swagger_ui_oauth2_redirect_url=None,
        # A form may be as large as what it may carry: every image, and a sidecar for each.
        form_limits={
            "max_files": chosen.max_images,
            "max_fields": chosen.max_images + 100,
            "max_part_size": chosen.max_image_bytes,
        },
    )
    app.state.metrics = metrics
    for module in (health, fit, calibrate, infer, explain, predict, datasets, state, drift):
        app.include_router(module.router)
    errors.install(app, debug=chosen.debug)
    openapi.install(app)
    origins = [o.strip() for o in chosen.cors_origins.split(",") if o.strip()]
    key = chosen.api_key.get_secret_value() if chosen.api_key else None
    app.add_middleware(GuardMiddleware, api_key=key, debug=chosen.debug)
    app.add_middleware(
        CorsMiddleware,
        allow_origins=origins,
        allow_credentials="*" not in origins,
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=["X-Request-Id", "X-Recipe-Id", "Retry-After"],
    )
    app.add_middleware(CallMiddleware, observe=metrics.observe if chosen.enable_metrics else None)
    return app


async def _start(runtime: Runtime) -> None:
    await runtime.warm_up()
    if runtime.settings.api_key is None:
        _log.warning("auth.off", hint="set BACKEND_API_KEY to ask callers for a key")
    try:
        spec = runtime.backbones.settle()
        reason = runtime.backbones.reason
        announce = _log.warning if reason else _log.info
        announce("backbone.in_force", model=spec.name, model_version=spec.label, reason=reason)
    except PatchlightError as error:
        # Starting all the same: an export or a mounted store may come later, and /health says what is missing.
        _log.error("backbone.missing", error=error.message)
    # A database that fails is logged there, and costs no verdict.
    await runtime.drift.check(budget_s=MIGRATION_BUDGET_S)
