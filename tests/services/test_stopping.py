from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest

from orchestrator.errors import Stopping
from orchestrator.patchcore.coreset import select_coreset
from orchestrator.services.pool import NumericsPool


def test_a_pool_that_closes_abandons_a_long_coreset_at_once() -> None:
    rows = np.random.default_rng(0).normal(size=(60_000, 64)).astype(np.float32)

    async def close_while_it_runs() -> float:
        pool = NumericsPool(1)
        work = asyncio.create_task(pool.run_fit(select_coreset, rows, 0.9, progress=pool.keep_going))
        await asyncio.sleep(0.5)
        assert not work.done()
        started = time.monotonic()
        pool.close()
        with pytest.raises(Stopping):
            await work
        return time.monotonic() - started

    assert asyncio.run(close_while_it_runs()) < 10
