"""Four uvicorn workers on one store: what one of them fits, every other answers with at once."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from tests.e2e.server import Server, serving
from tests.gui import Gui, ok
from tests.pictures import bad, good


def pid_of(server: Server, event: str, request_id: str) -> int:
    # The line is written after the answer is sent.
    for _ in range(200):
        for line in server.lines(event):
            if line["request_id"] == request_id:
                return int(line["pid"])
        time.sleep(0.02)
    raise AssertionError(f"no line of {request_id}")


def ask(server: Server, request_id: str) -> Gui:
    return Gui(server, **{"X-Request-Id": request_id})


@pytest.mark.slow
def test_every_worker_answers_right_after_any_other_s_fit(tiny_repository: Path, tmp_path: Path) -> None:
    with serving(tiny_repository, tmp_path, workers=4) as server:
        image = bad(1)[0]
        for generation, start in enumerate((0, 100), 1):
            ok(ask(server, f"fit-{generation}").fit(good(20, start=start)))
            ok(ask(server, f"calibrate-{generation}").json("/calibrate_ng", ok_scores=[0.1 * generation]))
            answers = {}
            for attempt in range(60):
                name = f"infer-{generation}-{attempt}"
                answers[name] = ok(ask(server, name).infer(image))
                pids = {pid_of(server, "infer.response", n) for n in answers}
                if len(pids - {pid_of(server, "fit_ok.response", f"fit-{generation}")}) >= 3:
                    break
            assert len(pids - {pid_of(server, "fit_ok.response", f"fit-{generation}")}) >= 3
            assert len({a["score"] for a in answers.values()}) == 1
            assert {a["bank_generation"] for a in answers.values()} == {generation}
            assert {a["threshold"] for a in answers.values()} == {0.1 * generation}

        statuses, generations = [], []

        def fit(index: int) -> None:
            answer = ask(server, f"race-{index}").fit(good(4, start=200 + 10 * index), memory_fit="true")
            generations.append(ok(answer)["bank_generation"])
            statuses.append(ok(ask(server, f"status-{index}").get("/train/status"))["status"])

        threads = [threading.Thread(target=fit, args=(i,)) for i in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(generations) == [3, 4, 5, 6, 7, 8]
        assert len({pid_of(server, "fit_ok.response", f"race-{i}") for i in range(6)}) > 1
        assert set(statuses) <= {"idle", "running"}


@pytest.mark.slow
def test_a_running_fit_is_seen_by_every_worker(tiny_repository: Path, tmp_path: Path) -> None:
    with serving(tiny_repository, tmp_path, workers=2) as server:
        images = good(100)
        thread = threading.Thread(target=lambda: ask(server, "long").fit(images, memory_fit="false"))
        thread.start()
        seen: dict[int, set[str]] = {}
        attempt = 0
        while thread.is_alive():
            attempt += 1
            name = f"status-{attempt}"
            status = ok(ask(server, name).get("/train/status"))["status"]
            seen.setdefault(pid_of(server, "train.status.response", name), set()).add(status)
        thread.join()
        assert [statuses for statuses in seen.values() if "running" in statuses]
        assert ok(ask(server, "after").get("/train/status"))["status"] == "idle"
