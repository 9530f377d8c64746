"""Running numerics block by block on threads of one's own, with the same bits on any number of them.

OpenBLAS rounds differently with other thread counts, so a block is computed by one thread and BLAS gets one thread
within; blocks have fixed shapes and write to places of their own. Knows nothing of what is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager

from threadpoolctl import threadpool_limits

from orchestrator.patchcore.shared_limit import SharedLimit


class Blocks:
    """Threads that take blocks. threads: how many; with 1 the caller's own does the work."""

    def __init__(self, threads: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="coreset") if threads > 1 else None

    def each(
        self,
        function: Callable[[slice], None],
        blocks: Iterable[slice],
        between: Callable[[], None] | None = None,
    ) -> None:
        """Call function with every block; `between` runs in the caller's thread as blocks end, and may raise."""
        if self._executor is None:
            for block in blocks:
                function(block)
                if between is not None:
                    between()
            return
        for future in [self._executor.submit(function, block) for block in blocks]:
            future.result()
            if between is not None:
                between()

    def close(self) -> None:
        """Drop what has not begun and wait for what has."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)


@contextmanager
def open_blocks(threads: int) -> Iterator[Blocks]:
    """Give threads for blocks, with BLAS at one thread a call until the end."""
    blocks = Blocks(threads)
    try:
        with one_blas_thread():
            yield blocks
    finally:
        blocks.close()


def row_blocks(n: int, step: int) -> list[slice]:
    """Cut n rows into blocks of `step` rows."""
    return [slice(low, min(low + step, n)) for low in range(0, n, step)]


_blas = SharedLimit(lambda: threadpool_limits(limits=1, user_api="blas").restore_original_limits)


def one_blas_thread() -> AbstractContextManager[None]:
    """Limit BLAS to one thread a call. The limit is the process's: the last to leave puts back what was before."""
    return _blas.hold()
