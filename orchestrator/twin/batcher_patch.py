"""Shorten two naps of Triton's dynamic batcher, in the installed copy of the server.

With a queue policy or priority levels, Triton (seen in 2.51) does not wake its batcher for a request that
comes while every instance is busy, and may miss the instance that comes free; the request then waits for
another one, or for the batcher's nap of 500 ms to end. Of two requests 1 ms apart, with nothing behind
them, the second took 504 ms every other time. No configuration changes that nap, so the copy gets one of 2
ms.

Source: triton-inference-server/core `dynamic_batch_scheduler.cc` (Enqueue, BatcherThread,
WaitForPayloadSlotAvailable), `rate_limiter.cc` (PayloadSlotAvailable), `scheduler_utils.cc`
(SupportPrefetching).
"""

from __future__ import annotations

from pathlib import Path

from orchestrator.errors import FeaturesUnavailable

# Both in DynamicBatchScheduler::BatcherThread of the pinned library; each occurs once in it.
_NAPS = (
    # mov $500000000,%r12d: nanoseconds, while the queue is empty
    (b"\x41\xbc" + (500_000_000).to_bytes(4, "little"), b"\x41\xbc" + (2_000_000).to_bytes(4, "little")),
    # mov $500000,%edx; mov %rbx,%rdi: microseconds, while every instance is busy
    (
        b"\xba" + (500_000).to_bytes(4, "little") + b"\x48\x89\xdf",
        b"\xba" + (2_000).to_bytes(4, "little") + b"\x48\x89\xdf",
    ),
)


def shorten_batcher_nap(libraries: Path) -> None:
    """Patch `libtritonserver` in `libraries`, in place.

    Raises FeaturesUnavailable where the library is not the one that the pin names.
    """
    (library,) = libraries.glob("libtritonserver-*.so")
    code = library.read_bytes()
    for shipped, shortened in _NAPS:
        if code.count(shipped) != 1:
            raise FeaturesUnavailable(f"{library.name} is not the library of the pinned wheel")
        code = code.replace(shipped, shortened)
    library.write_bytes(code)
