"""What the Triton extractor puts on the wire, and what it makes of answers a healthy Triton never gives."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from orchestrator.domain.backbone import BackboneSpec
from orchestrator.errors import FeatureContractBroken, FeaturesUnavailable, Overloaded
from orchestrator.features.base import Priority
from orchestrator.features.triton import TritonExtractor
from tests.triton_fixtures import call, draw_images

SPEC = BackboneSpec(
    name="toy",
    version=7,
    fingerprint="f" * 64,
    input_size=(28, 28),
    grid=(2, 2),
    dim=4,
    padding="black",
    weights_source="random",
    reason=None,
    input_name="image",
    output_name="tokens",
    onnx_sha256="0" * 64,
)
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
Answer = Callable[[Any], Any]


class RecordingTriton(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Speaks Triton's protocol; each answer in turn is a function of the request, or a status to fail
    with."""

    def __init__(self, *answers: Answer | tuple[grpc.StatusCode, str]) -> None:
        self.answers = list(answers)
        self.requests: list[tuple[Any, dict[str, str], float]] = []

    async def ModelConfig(self, request: Any, context: Any) -> Any:
        config = service_pb2.ModelConfigResponse()
        config.config.parameters["fingerprint.7"].string_value = SPEC.fingerprint
        return config

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        self.requests.append((request, dict(context.invocation_metadata()), context.time_remaining()))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, tuple):
            return await context.abort(*answer)
        return answer(request)


def answer_with(
    tokens: np.ndarray, *, datatype: str = "FP16", name: str = "tokens", raw: bytes | None = None
) -> Answer:
    def answer(request: Any) -> Any:
        response = service_pb2.ModelInferResponse(model_name="toy", model_version="7")
        batch = request.inputs[0].shape[0]
        response.outputs.add(name=name, datatype=datatype, shape=[batch, *tokens.shape])
        response.raw_output_contents.append(tokens.tobytes() * batch if raw is None else raw)
        return response

    return answer


GOOD = answer_with(np.full((4, 4), 0.5, np.float16))


def talk(triton: RecordingTriton, use: Callable[[TritonExtractor], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        server = grpc.aio.server()
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(triton, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        extractor = TritonExtractor(f"127.0.0.1:{port}")
        try:
            return await use(extractor)
        finally:
            await extractor.close()
            await server.stop(None)

    return asyncio.run(run())


def extract(triton: RecordingTriton, count: int = 1, **context: Any) -> Any:
    images = draw_images(count, side=28)
    return talk(triton, lambda extractor: extractor.extract(images, SPEC, call(**context)))


def test_a_call_carries_version_priority_deadline_and_trace() -> None:
    triton = RecordingTriton(GOOD)
    extract(triton, timeout_s=3.0, priority=Priority.FIT, traceparent=TRACEPARENT)
    ((request, metadata, remaining_s),) = triton.requests
    assert (request.model_name, request.model_version, request.id) == ("toy", "7", "test-request")
    assert request.parameters["priority"].uint64_param == 2
    assert 2_000_000 < request.parameters["timeout"].int64_param <= 3_000_000
    assert 2.0 < remaining_s < 3.1
    assert metadata["x-request-id"] == "test-request"
    assert metadata["traceparent"] == TRACEPARENT
    assert request.raw_input_contents[0] == draw_images(1, side=28).tobytes()


def test_no_trace_is_sent_where_there_is_none() -> None:
    triton = RecordingTriton(GOOD)
    extract(triton)
    assert "traceparent" not in triton.requests[0][1]


def test_a_large_batch_is_split_to_what_one_call_may_carry() -> None:
    triton = RecordingTriton(GOOD)
    assert extract(triton, 20).shape == (20, 4, 4)
    assert sorted(request.inputs[0].shape[0] for request, _, _ in triton.requests) == [4, 8, 8]


@pytest.mark.parametrize(
    "lost",
    [
        (grpc.StatusCode.UNAVAILABLE, "Socket closed"),
        (grpc.StatusCode.UNAVAILABLE, "Server is stopping, scheduler for model has stopped"),
        (grpc.StatusCode.UNKNOWN, "Stream removed"),
        (grpc.StatusCode.NOT_FOUND, "Request for unknown model: 'toy' has no available versions"),
    ],
)
def test_a_lost_server_is_asked_once_more(lost: tuple[grpc.StatusCode, str]) -> None:
    assert extract(RecordingTriton(lost, GOOD)).shape == (1, 4, 4)
    triton = RecordingTriton(lost)
    with pytest.raises(FeaturesUnavailable):
        extract(triton)
    assert len(triton.requests) == 2


@pytest.mark.parametrize(
    ("refusal", "error"),
    [
        ((grpc.StatusCode.UNAVAILABLE, "[request id: 1] Exceeds maximum queue size"), Overloaded),
        ((grpc.StatusCode.UNAVAILABLE, "Request timeout expired"), FeaturesUnavailable),
        (
            (grpc.StatusCode.UNAVAILABLE, "This protocol is restricted, expecting header"),
            FeatureContractBroken,
        ),
        ((grpc.StatusCode.INVALID_ARGUMENT, "unexpected shape for input 'image'"), FeatureContractBroken),
        ((grpc.StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max"), FeatureContractBroken),
        ((grpc.StatusCode.INTERNAL, "onnxruntime: out of memory"), FeaturesUnavailable),
    ],
)
def test_a_refusal_is_not_repeated(refusal: tuple[grpc.StatusCode, str], error: type[Exception]) -> None:
    triton = RecordingTriton(refusal)
    with pytest.raises(error):
        extract(triton)
    assert len(triton.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [
        answer_with(np.full((4, 4), 0.5, np.float16), raw=b""),
        answer_with(np.full((4, 4), np.nan, np.float16)),
        answer_with(np.full((4, 4), -np.inf, np.float16)),
        answer_with(np.full((4, 5), 0.5, np.float16)),
        answer_with(np.full((4, 4), 0.5, np.float32), datatype="FP32"),
        answer_with(np.full((4, 4), 0.5, np.float16), name="features"),
    ],
    ids=["no bytes", "nan", "infinity", "shape", "type", "name"],
)
def test_tokens_that_are_not_what_was_promised_are_refused(answer: Answer) -> None:
    with pytest.raises(FeatureContractBroken):
        extract(RecordingTriton(answer))


def test_a_failing_batch_stops_the_ones_behind_it() -> None:
    triton = RecordingTriton((grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size"))
    with pytest.raises(Overloaded):
        extract(triton, 80)
    assert len(triton.requests) <= 4
