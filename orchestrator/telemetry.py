"""JSON log lines on stdout, and the Prometheus metrics of the API; knows no route."""

from __future__ import annotations

import logging
import os
import sys
from datetime import UTC, datetime
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from orchestrator.domain.drift import DriftState
from orchestrator.domain.moments import utc_text

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)

_DRIFT = {
    "parts": "Parts judged since the fit or the last reset.",
    "log10_martingale": "Decimal logarithm of the evidence against exchangeable parts.",
    "alarm": "1 once the evidence has reached 1/alpha.",
}


def configure_logging(level: str = "info") -> None:
    """Write every line, the libraries' included, as one JSON object with `ts`, `level`, `pid` and `event`."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        _stamp,
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer(default=str)],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = _StandardOutput()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(default=str),
            ],
            foreign_pre_chain=shared,
        )
    )
    # Decoders warn of damaged files.
    logging.captureWarnings(True)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(logging.INFO, getattr(logging, level.upper())))
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = name != "uvicorn.access"


def _stamp(_: Any, __: str, event: dict[str, Any]) -> dict[str, Any]:
    event["ts"] = utc_text(datetime.now(UTC))
    event["pid"] = os.getpid()
    return event


class _StandardOutput(logging.Handler):
    """Writes to whatever standard output is at the time."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stdout.write(self.format(record) + "\n")
        sys.stdout.flush()


class Metrics:
    """Counts and times requests by route template; of a target it shows only its drift."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "patchlight_requests",
            "Requests answered.",
            ["route", "method", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "patchlight_request_duration_seconds",
            "Time to answer a request.",
            ["route"],
            buckets=_BUCKETS,
            registry=self._registry,
        )

        # Over several workers the one that saw the target last speaks for it.
        self._drift = {
            name: Gauge(
                f"patchlight_drift_{name}",
                text,
                ["recipe_id", "role_id", "roi_id", "model_key"],
                registry=self._registry,
                multiprocess_mode="mostrecent",
            )
            for name, text in _DRIFT.items()
        }

    def observe_drift(self, state: DriftState) -> None:
        """Show a target's drift as of its last part, or of the last look at it."""
        target = state.stream.target
        labels = (target.part.recipe_id, target.part.role_id, target.part.roi_id, target.model_key)
        self._drift["parts"].labels(*labels).set(state.parts)
        self._drift["log10_martingale"].labels(*labels).set(state.log10_martingale)
        self._drift["alarm"].labels(*labels).set(state.alarm_at is not None)

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        self._requests.labels(route, method, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def render(self) -> bytes:
        """Give the exposition text, over all workers where PROMETHEUS_MULTIPROC_DIR is set."""
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self._registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)
