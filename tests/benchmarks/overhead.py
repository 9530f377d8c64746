"""What the orchestrator adds to Triton: p50 of `/infer` minus p50 of the bare call, and where it goes.

One keep-alive connection, calibrated target, heat map included; `/infer` and the bare call take turns, with the same
decoded, letterboxed pixels and the product's own channel settings.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tritonclient.grpc import service_pb2

from orchestrator.domain.arrays import ImageArray
from orchestrator.domain.backbone import BackboneSpec
from orchestrator.features.base import Priority
from orchestrator.features.preprocess import ImageLimits
from orchestrator.features.triton_connection import UNLIMITED, TritonConnection
from orchestrator.services.embed import Photograph, prepare
from tests.benchmarks.load import FORM, Body, Client, draw_pngs, fit_body, infer_body, json_body, p50
from tests.benchmarks.rows import Figures, Row
from tests.benchmarks.servers import Ours, Plan, serve_ours

_WARM_UP = 10
_TIMEOUT_S = 30.0
_STAGES = ("decode", "search", "map", "encode")
_CASES: Mapping[str, str] = {
    "/infer": "p50, one connection",
    "bare Triton call": "p50, same pixels, same channel settings",
    "overhead": "the difference of the two; below, the p50 of each part",
    "decode": "decoding, letterbox, ROI mask",
    "search": "nearest bank row of every patch",
    "map": "anomaly map, image score, regions",
    "encode": "heat map as PNG",
    "http": "multipart, JSON, base64, sockets: what lies outside the inspection",
    "state": "inside the inspection, but in no stage: bank and scale read from the store, thread hops",
    "features": "the feature call inside the orchestrator, above the bare call",
}


def run(plan: Plan, *, backbone: str = "tiny", requests: int = 200, fit_images: int = 10) -> list[Row]:
    """Measure. requests: of each kind in one repeat."""
    pngs = draw_pngs(8, first_seed=1000)
    with serve_ours(plan, backbone) as ours, Client(ours.url) as client:
        client.post("/fit_ok", fit_body(draw_pngs(fit_images, first_seed=0)))
        scores = [client.post("/infer", infer_body(png))[0]["score"] for png in pngs]
        client.post("/calibrate_ng", json_body({**FORM, "mm_per_px": 0.1, "ok_scores": scores}))
        return asyncio.run(_measure(plan, ours, client, pngs, requests))


@dataclass(frozen=True, slots=True)
class _Turns:
    """One repeat, ms. whole: seen by the client. inside: the inspection. stages: of it. bare: the call to Triton."""

    whole: list[float]
    inside: list[float]
    stages: list[dict[str, float]]
    bare: list[float]

    def figures(self) -> dict[str, float]:
        """Give every case's p50."""
        outside = [w - i for w, i in zip(self.whole, self.inside, strict=True)]
        between = [i - sum(s.values()) for i, s in zip(self.inside, self.stages, strict=True)]
        stages = {name: p50([s[name] for s in self.stages]) for name in self.stages[0]}
        return {
            "/infer": p50(self.whole),
            "bare Triton call": p50(self.bare),
            "overhead": p50(self.whole) - p50(self.bare),
            **{name: stages[name] for name in _STAGES},
            "http": p50(outside),
            "state": p50(between),
            "features": stages["features"] - p50(self.bare),
        }


async def _measure(plan: Plan, ours: Ours, client: Client, pngs: Sequence[bytes], requests: int) -> list[Row]:
    limits = ImageLimits(max_bytes=1 << 24, max_pixels=1 << 24)
    canvases = [prepare(Photograph(png, "image"), ours.spec, limits).canvases[0] for png in pngs]
    calls = [_infer_request(canvas, ours.spec) for canvas in canvases]
    bodies = [infer_body(png) for png in pngs]
    parts = {
        case: Figures("overhead", case, "ms", "lower", requests, plan.threads, notes)
        for case, notes in _CASES.items()
    }
    connection = TritonConnection(ours.triton_url, UNLIMITED)
    try:
        await _take_turns(client, bodies, connection, calls, _WARM_UP)
        for _ in range(plan.repeats):
            turns = await _take_turns(client, bodies, connection, calls, requests)
            for case, value in turns.figures().items():
                parts[case].add(value)
    finally:
        await connection.close()
    return [figures.row() for figures in parts.values()]


async def _take_turns(
    client: Client, bodies: Sequence[Body], connection: TritonConnection, calls: Sequence[Any], count: int
) -> _Turns:
    whole, inside, stages, bare = [], [], [], []
    for turn in range(count):
        answer, elapsed_ms = client.post("/infer", bodies[turn % len(bodies)])
        whole.append(elapsed_ms)
        inside.append(answer["elapsed_ms"])
        stages.append(answer["timings_ms"])
        started = time.perf_counter()
        await connection.stub.ModelInfer(calls[turn % len(calls)], timeout=_TIMEOUT_S)
        bare.append((time.perf_counter() - started) * 1e3)
    return _Turns(whole, inside, stages, bare)


def _infer_request(canvas: ImageArray, spec: BackboneSpec) -> Any:
    request = service_pb2.ModelInferRequest(model_name=spec.name, model_version=str(spec.version))
    request.inputs.add(name=spec.input_name, datatype="UINT8", shape=(1, *canvas.shape))
    request.outputs.add(name=spec.output_name)
    request.parameters["priority"].uint64_param = int(Priority.INSPECT)
    request.parameters["timeout"].int64_param = int(_TIMEOUT_S * 1e6)
    request.raw_input_contents.append(canvas.tobytes())
    return request
