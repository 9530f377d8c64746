"""Features from Triton over gRPC: batches, deadlines, retries.

Knows the inference protocol; what an error means is in `triton_errors`, what a connection knows in
`triton_connection`. Batching across requests is Triton's own.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any, Literal

import grpc
import numpy as np
from tritonclient.grpc import service_pb2

from orchestrator.domain.arrays import HalfArray, ImageArray
from orchestrator.domain.backbone import BackboneSpec
from orchestrator.errors import DeadlineExceeded, FeatureContractBroken
from orchestrator.features.base import CallContext
from orchestrator.features.tensors import check_images, check_tokens, no_tokens, split_batch
from orchestrator.features.triton_connection import UNLIMITED, TritonConnection
from orchestrator.features.triton_errors import classify

MAX_BATCH = 8
_CONCURRENT_BATCHES = 2
_TRIES = 2
_RETRY_PAUSE_S = (0.05, 0.15)
_READY_S = 0.9


class TritonExtractor:
    """Asks Triton for the tokens of one pinned version per call.

    url: `host:port`, or `dns:///name:port` for all replicas behind a name. max_batch: the model's
    max_batch_size. The channel is made at the first call and belongs to that event loop; a call from
    another loop makes a new one, so one extractor serves one running loop at a time.
    """

    def __init__(self, url: str, *, max_batch: int = MAX_BATCH, max_receive_bytes: int = UNLIMITED) -> None:
        self._url = url
        self._max_batch = max_batch
        self._max_receive_bytes = max_receive_bytes
        self._connection: TritonConnection | None = None

    @property
    def backend(self) -> Literal["triton"]:
        """The wire's `feature_backend`."""
        return "triton"

    async def extract(self, images: ImageArray, spec: BackboneSpec, context: CallContext) -> HalfArray:
        """Compute tokens; see FeatureExtractor. The array may be read-only.

        Raises FeaturesUnavailable, Overloaded, DeadlineExceeded, FeatureContractBroken.
        """
        check_images(images, spec)
        if len(images) == 0:
            return no_tokens(spec)
        deadline = asyncio.get_running_loop().time() + context.timeout_s
        if len(images) <= self._max_batch:
            return await self._extract_batch(images, spec, context, deadline)
        gate = asyncio.Semaphore(_CONCURRENT_BATCHES)

        async def extract_in_turn(batch: ImageArray) -> HalfArray:
            async with gate:
                return await self._extract_batch(batch, spec, context, deadline)

        try:
            async with asyncio.TaskGroup() as group:
                batches = [
                    group.create_task(extract_in_turn(batch))
                    for batch in split_batch(images, self._max_batch)
                ]
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return np.concatenate([batch.result() for batch in batches])

    async def is_ready(self, spec: BackboneSpec) -> bool:
        """Say within a second whether this version, with this fingerprint, answers now."""
        connection = self._connected()
        request = service_pb2.ModelReadyRequest(name=spec.name, version=str(spec.version))
        try:
            async with asyncio.timeout(_READY_S):
                answer = await connection.stub.ModelReady(request, timeout=_READY_S)
                if answer.ready:
                    await connection.verify(spec, _READY_S)
                return bool(answer.ready)
        except (TimeoutError, grpc.aio.AioRpcError, FeatureContractBroken):
            return False

    async def close(self) -> None:
        """Close the channel; the next call opens a new one."""
        connection, self._connection = self._connection, None
        if connection is not None and connection.loop is asyncio.get_running_loop():
            await connection.close()

    def _connected(self) -> TritonConnection:
        if self._connection is None or self._connection.loop is not asyncio.get_running_loop():
            self._connection = TritonConnection(self._url, self._max_receive_bytes)
        return self._connection

    async def _extract_batch(
        self, images: ImageArray, spec: BackboneSpec, context: CallContext, deadline: float
    ) -> HalfArray:
        for attempt in range(1, _TRIES + 1):
            try:
                return await self._ask(images, spec, context, deadline)
            except grpc.aio.AioRpcError as error:
                failure = classify(error)
                if failure.retry:
                    self._connected().forget()
                pause = random.uniform(*_RETRY_PAUSE_S)  # noqa: S311 - jitter
                if not failure.retry or attempt == _TRIES or pause >= _remaining(deadline):
                    raise failure.error from error
            await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    async def _ask(
        self, images: ImageArray, spec: BackboneSpec, context: CallContext, deadline: float
    ) -> HalfArray:
        connection = self._connected()
        await connection.verify(spec, _remaining(deadline))
        request = _infer_request(images, spec, context, _remaining(deadline))
        metadata = [("x-request-id", context.request_id)]
        if context.traceparent is not None:
            metadata.append(("traceparent", context.traceparent))
        answer = await connection.stub.ModelInfer(request, timeout=_remaining(deadline), metadata=metadata)
        # Free unless the channel was re-made meanwhile; then the answer may be another server's.
        await connection.verify(spec, _remaining(deadline))
        return check_tokens(_read_tokens(answer, spec), len(images), spec)


def _remaining(deadline: float) -> float:
    remaining = deadline - asyncio.get_running_loop().time()
    if remaining <= 0:
        raise DeadlineExceeded("no time was left to ask Triton")
    return remaining


def _infer_request(images: ImageArray, spec: BackboneSpec, context: CallContext, timeout_s: float) -> Any:
    request = service_pb2.ModelInferRequest(
        model_name=spec.name, model_version=str(spec.version), id=context.request_id
    )
    request.inputs.add(name=spec.input_name, datatype="UINT8", shape=images.shape)
    request.outputs.add(name=spec.output_name)
    request.parameters["priority"].uint64_param = int(context.priority)
    # Governs the time in Triton's queue only; the call as a whole has the RPC's own deadline.
    request.parameters["timeout"].int64_param = int(timeout_s * 1e6)
    request.raw_input_contents.append(images.tobytes())
    return request


def _read_tokens(answer: Any, spec: BackboneSpec) -> HalfArray:
    described: Sequence[Any] = answer.outputs
    if len(described) != 1 or described[0].name != spec.output_name or len(answer.raw_output_contents) != 1:
        raise FeatureContractBroken(
            f"Triton answered {len(described)} outputs, none of them {spec.output_name!r} alone"
        )
    if described[0].datatype != "FP16":
        raise FeatureContractBroken(f"Triton answered {described[0].datatype} tokens, not FP16")
    try:
        return np.frombuffer(answer.raw_output_contents[0], np.float16).reshape(described[0].shape)
    except ValueError as error:
        # A stub on the wrong NumPy says the right shape and sends no bytes.
        raise FeatureContractBroken(
            f"Triton sent {len(answer.raw_output_contents[0])} bytes for tokens of shape {list(described[0].shape)}"
        ) from error
