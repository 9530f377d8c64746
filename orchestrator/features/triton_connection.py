"""One gRPC channel to Triton, and what is known of the server at its other end.

Knows channel options and the fingerprint check; nothing of batches or retries.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from orchestrator.domain.backbone import BackboneSpec
from orchestrator.errors import FeatureContractBroken

UNLIMITED = 2**31 - 1
_CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", UNLIMITED),
    # Half-open connections (a node that vanished) are noticed within 20 s.
    ("grpc.keepalive_time_ms", 15_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # gRPC's own back-off reaches two minutes; a restarted Triton must be found within a second, jitter
    # included.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    # Also the limit of one attempt to connect: a caller never waits longer for a host that does not answer.
    ("grpc.min_reconnect_backoff_ms", 500),
    # A channel to the service sees every replica; on one address it also reconnects without waiting for a
    # call.
    ("grpc.lb_policy_name", "round_robin"),
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
    # Two extractors in one process must not share one connection and its failures.
    ("grpc.use_local_subchannel_pool", 1),
)


class TritonConnection:
    """A channel bound to the event loop that made it.

    A version counts as verified until the channel leaves READY: behind a new connection may be another
    server.
    """

    def __init__(self, url: str, max_receive_bytes: int) -> None:
        self.loop = asyncio.get_running_loop()
        options = (*_CHANNEL_OPTIONS, ("grpc.max_receive_message_length", max_receive_bytes))
        self._channel = grpc.aio.insecure_channel(url, options=options)
        self.stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._verified: set[BackboneSpec] = set()
        self._watcher = self.loop.create_task(self._forget_on_reconnect(), name="triton-connectivity")

    async def verify(self, spec: BackboneSpec, timeout_s: float) -> None:
        """Ask once per connection whether Triton serves the very features that `spec` names.

        Raises FeatureContractBroken where it serves others; grpc.aio.AioRpcError where it does not answer.
        """
        if spec in self._verified:
            return
        request = service_pb2.ModelConfigRequest(name=spec.name, version=str(spec.version))
        answer = await self.stub.ModelConfig(request, timeout=timeout_s)
        key = f"fingerprint.{spec.version}"
        served = answer.config.parameters[key].string_value if key in answer.config.parameters else None
        if served != spec.fingerprint:
            raise FeatureContractBroken(
                f"Triton serves {spec.name}/{spec.version} with fingerprint {(served or 'none')[:12]}, "
                f"not {spec.fingerprint[:12]}: its repository is another one"
            )
        self._verified.add(spec)

    def forget(self) -> None:
        """Verify every version again before its features are used."""
        self._verified.clear()

    async def close(self) -> None:
        """Close the channel; calls in flight fail."""
        self._watcher.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._watcher
        await self._channel.close()

    async def _forget_on_reconnect(self) -> None:
        state: Any = self._channel.get_state()
        while state is not grpc.ChannelConnectivity.SHUTDOWN:
            await self._channel.wait_for_state_change(state)
            if state is grpc.ChannelConnectivity.READY:
                self.forget()
            state = self._channel.get_state()
