"""Features in this process, through onnxruntime: the embedded default without Triton, and the reference.

Knows graphs and threads; no network.
"""

from __future__ import annotations

import asyncio
import hashlib
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from orchestrator.domain.arrays import HalfArray, ImageArray
from orchestrator.domain.backbone import BackboneSpec
from orchestrator.errors import DeadlineExceeded, FeatureContractBroken, FeaturesUnavailable, NotFound
from orchestrator.features.base import CallContext
from orchestrator.features.repository import ModelRepository
from orchestrator.features.tensors import check_images, check_tokens, no_tokens, split_batch

MAX_BATCH = 8
_READY_S = 0.9
_BROKEN_GRAPH = (
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NotImplemented,
)
_FAILED_RUN = (
    ort_errors.EPFail,
    ort_errors.EngineError,
    ort_errors.Fail,
    ort_errors.NoModel,
    ort_errors.NoSuchFile,
    ort_errors.RuntimeException,
)


class OnnxExtractor:
    """Runs the repository's graphs here. One batch at a time, on all its threads.

    threads: of one execution. A version is loaded at its first call and kept; a fit sends one batch after
    another, so an inspection waits for at most one batch of it.
    """

    def __init__(self, repository: ModelRepository, *, threads: int) -> None:
        self._repository = repository
        self._threads = threads
        self._runner = ThreadPoolExecutor(1, thread_name_prefix="onnx-run")
        # Apart from the runner, so that loading one version does not hold up another.
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="onnx-load")
        self._sessions: dict[BackboneSpec, Future[Any]] = {}

    @property
    def backend(self) -> Literal["onnxruntime"]:
        """The wire's `feature_backend`."""
        return "onnxruntime"

    async def extract(self, images: ImageArray, spec: BackboneSpec, context: CallContext) -> HalfArray:
        """Compute tokens; see FeatureExtractor.

        Raises FeaturesUnavailable, DeadlineExceeded, FeatureContractBroken.
        """
        check_images(images, spec)
        if len(images) == 0:
            return no_tokens(spec)
        try:
            async with asyncio.timeout(context.timeout_s):
                # Shielded, because others wait for the same load.
                session = await asyncio.shield(asyncio.wrap_future(self._session(spec)))
                loop = asyncio.get_running_loop()
                parts = [
                    await loop.run_in_executor(self._runner, _run, session, spec, batch)
                    for batch in split_batch(images, MAX_BATCH)
                ]
        except TimeoutError as error:
            raise DeadlineExceeded(f"{spec.label} did not answer within {context.timeout_s:.3g} s") from error
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    async def is_ready(self, spec: BackboneSpec) -> bool:
        """Say within a second whether the graph is loaded; asking starts the loading."""
        try:
            async with asyncio.timeout(_READY_S):
                await asyncio.shield(asyncio.wrap_future(self._session(spec)))
        except (TimeoutError, FeaturesUnavailable, FeatureContractBroken):
            return False
        return True

    async def close(self) -> None:
        """Drop the sessions once the batch in work is done."""
        await asyncio.to_thread(self._shut_down)

    def _shut_down(self) -> None:
        for executor in (self._loader, self._runner):
            executor.shutdown(wait=True, cancel_futures=True)
        self._sessions.clear()

    def _session(self, spec: BackboneSpec) -> Future[Any]:
        future = self._sessions.get(spec)
        # A failed load is tried again: the export may have been completed since.
        if future is None or (future.done() and (future.cancelled() or future.exception() is not None)):
            future = self._sessions[spec] = self._loader.submit(self._load, spec)
        return future

    def _load(self, spec: BackboneSpec) -> Any:
        try:
            stored = self._repository.spec(spec.name, spec.version)
            graph = self._repository.model_path(spec)
            with graph.open("rb") as content:
                digest = hashlib.file_digest(content, "sha256").hexdigest()
        except (NotFound, OSError) as error:
            raise FeaturesUnavailable(f"{spec.label} cannot be loaded: {error}") from error
        if stored.fingerprint != spec.fingerprint:
            raise FeatureContractBroken(f"the repository holds {stored.label}, not {spec.label}")
        if digest != stored.onnx_sha256:
            raise FeatureContractBroken(f"{graph} is not the graph that its manifest describes")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        # Search and map run on the same cores right after; spinning threads would take them away.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            return onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        except _BROKEN_GRAPH as error:
            raise FeatureContractBroken(f"{graph} is not a graph onnxruntime can run: {error}") from error
        except _FAILED_RUN as error:
            raise FeaturesUnavailable(f"{graph} cannot be loaded: {error}") from error


def _run(session: Any, spec: BackboneSpec, images: ImageArray) -> HalfArray:
    try:
        (tokens,) = session.run([spec.output_name], {spec.input_name: images})
    except (*_BROKEN_GRAPH, ValueError) as error:
        raise FeatureContractBroken(f"{spec.label} refuses its own contract: {error}") from error
    except (*_FAILED_RUN, MemoryError) as error:
        raise FeaturesUnavailable(f"{spec.label} failed: {error}") from error
    return check_tokens(tokens, len(images), spec)
