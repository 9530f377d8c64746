"""Triton dies under load: a quick 503 that says when to come back, and the first success soon after it is back."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path

import httpx2 as httpx
import pytest

from orchestrator.twin.process import TritonServer
from tests.e2e.server import serving
from tests.gui import Gui, ok
from tests.pictures import good


@dataclass(frozen=True)
class Seen:
    """One answered request."""

    began: float
    ended: float
    status: int
    retry_after: str | None


@pytest.mark.slow
def test_a_killed_triton_is_503_at_once_and_found_again_within_a_second(
    own_triton: TritonServer, tmp_path: Path
) -> None:
    with serving(tmp_path / "repository", tmp_path, triton_url=own_triton.grpc_url) as server:
        ok(Gui(server).fit(good(4)))
        stop, seen = threading.Event(), list[Seen]()

        def load() -> None:
            gui = Gui(server)
            while not stop.is_set():
                began = time.monotonic()
                answer = gui.infer(good(1)[0], include_heatmap="false")
                retry_after = answer.headers.get("retry-after")
                seen.append(Seen(began, time.monotonic(), answer.status_code, retry_after))
                time.sleep(0.02)

        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(1.0)
        killed = time.monotonic()
        own_triton.kill()
        time.sleep(2.5)
        down = httpx.get(f"{server.url}/health", timeout=5)
        ready_probe = httpx.get(f"{server.url}/readyz", timeout=5)
        own_triton.restart()
        ready = time.monotonic()
        time.sleep(2.0)
        stop.set()
        for thread in threads:
            thread.join(timeout=10)
            assert not thread.is_alive()

    assert {s.status for s in seen if s.ended < killed} == {200}
    failures = [s for s in seen if s.status != 200]
    assert {(s.status, s.retry_after) for s in failures} == {(503, "1")}
    assert len({s.status for s in seen if killed + 1.0 < s.began < ready - 1.0}) == 1
    assert max(s.ended - max(s.began, killed) for s in failures) < 1.0
    assert (down.status_code, ready_probe.status_code) == (503, 200)
    first = min(s.ended for s in seen if s.status == 200 and s.ended > ready - 0.5)
    assert first - ready < 1.0
    assert [s.status for s in seen if s.began > ready + 1.0].count(200) > 10
