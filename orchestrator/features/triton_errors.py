"""What a failed Triton call means: gRPC status and message in, our error out.

Queue full, queue time-out, a restricted protocol and a lost server all arrive as UNAVAILABLE, so the
message decides.
"""

from __future__ import annotations

from dataclasses import dataclass

import grpc

from orchestrator.errors import (
    DeadlineExceeded,
    FeatureContractBroken,
    FeaturesUnavailable,
    Overloaded,
    PatchlightError,
)

_BROKEN = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
)


@dataclass(frozen=True, slots=True)
class Failure:
    """What to raise, and whether the same call may succeed in a moment.

    retry: the call did not begin, or began on a server that is gone; feature calls are idempotent.
    """

    error: PatchlightError
    retry: bool


def classify(error: grpc.aio.AioRpcError) -> Failure:
    """Translate a failed call.

    Source: messages of Triton's core (`dynamic_batch_scheduler.cc`, `server.cc`) and of gRPC.
    """
    code, message = error.code(), error.details() or "no message"
    said = message.lower()
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Failure(DeadlineExceeded("Triton did not answer in time"), retry=False)
    # Before the messages: gRPC words an answer above its size limit as a removed stream.
    if code in _BROKEN:
        return Failure(
            FeatureContractBroken(f"Triton refuses the call ({code.name}): {message}"), retry=False
        )
    if code is grpc.StatusCode.UNAVAILABLE:
        if "exceeds maximum queue size" in said:
            return Failure(Overloaded("Triton's queue is full"), retry=False)
        if "request timeout expired" in said:
            return Failure(FeaturesUnavailable("the call waited too long in Triton's queue"), retry=False)
        if "protocol is restricted" in said:
            return Failure(FeatureContractBroken(f"Triton refuses the orchestrator: {message}"), retry=False)
        return Failure(FeaturesUnavailable(f"Triton cannot be reached: {message}"), retry=True)
    if code is grpc.StatusCode.NOT_FOUND:
        return Failure(FeaturesUnavailable(f"Triton does not serve this version: {message}"), retry=True)
    if code is grpc.StatusCode.CANCELLED or "stream removed" in said:
        return Failure(FeaturesUnavailable(f"Triton dropped the call: {message}"), retry=True)
    return Failure(FeaturesUnavailable(f"Triton failed ({code.name}): {message}"), retry=False)
