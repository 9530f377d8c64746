from __future__ import annotations

import asyncio

import cv2
import numpy as np
import structlog
import threadpoolctl

from orchestrator.services.pool import NumericsPool


def blas_threads() -> list[int]:
    np.zeros((2, 2)) @ np.zeros((2, 2))
    return [
        library["num_threads"] for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas"
    ]


def test_numerics_libraries_are_pinned_while_the_pool_lives_and_restored_after() -> None:
    before = blas_threads(), cv2.getNumThreads()
    pool = NumericsPool(2)
    assert set(blas_threads()) == {1}
    assert cv2.getNumThreads() == 1
    pool.close()
    assert (blas_threads(), cv2.getNumThreads()) == before


def test_of_several_pools_the_last_to_close_lifts_the_limits() -> None:
    before = blas_threads(), cv2.getNumThreads()
    first, second = NumericsPool(1), NumericsPool(1)
    first.close()
    first.close()
    assert (set(blas_threads()), cv2.getNumThreads()) == ({1}, 1)
    second.close()
    assert (blas_threads(), cv2.getNumThreads()) == before


def test_work_keeps_the_caller_s_log_context_and_raises_its_error() -> None:
    async def run() -> None:
        pool = NumericsPool(1)
        try:
            with structlog.contextvars.bound_contextvars(request_id="r-1"):
                seen = await pool.run(structlog.contextvars.get_contextvars)
            assert seen["request_id"] == "r-1"
            try:
                await pool.run_fit(int, "x")
            except ValueError:
                return
            raise AssertionError("no error came through")
        finally:
            pool.close()

    asyncio.run(run())
