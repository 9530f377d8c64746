"""Four workers, some of them killed: an outsider's replay of the answers gives the state that every worker tells."""

from __future__ import annotations

import signal
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import httpx2 as httpx
import psutil
import pytest

from tests import outsider
from tests.e2e.server import Server, serving
from tests.gui import Gui, ok
from tests.pictures import bad, good

CLIENTS = 4


def insist(servers: list[Server], request_id: str, image: bytes) -> dict[str, Any]:
    """Send a part under its one request id until it is answered and counted, as a station does that must know."""
    deadline = time.monotonic() + 150
    while time.monotonic() < deadline:
        try:
            answer = Gui(servers[-1], **{"X-Request-Id": request_id}).infer(image, include_heatmap="false")
        except httpx.TransportError:
            time.sleep(0.1)
            continue
        if answer.status_code == 200 and answer.json()["drift"] is not None:
            return ok(answer)
        time.sleep(0.05)
    raise AssertionError(f"no answer for {request_id}")


def kill(process: psutil.Process) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait(20)


def workers(server: Server) -> list[psutil.Process]:
    # uvicorn's children: the workers, and multiprocessing's resource tracker.
    return [p for p in psutil.Process(server.process.pid).children() if "spawn_main" in " ".join(p.cmdline())]


@pytest.mark.slow
def test_replay_of_the_answers_gives_the_state_through_kills_of_a_worker_and_of_the_server(
    tiny_repository: Path, tmp_path: Path
) -> None:
    usual, shifted = good(12, start=50), bad(6)
    servers: list[Server] = []
    answers: list[dict[str, Any]] = []

    def inspect(numbers: range, images: list[bytes], *, killing: bool = False) -> None:
        waiting = iter(numbers)

        def station() -> None:
            for number in waiting:
                answer = insist(servers, f"part-{number}", images[number % len(images)])
                answers.append(answer)

        threads = [threading.Thread(target=station) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        if killing:
            time.sleep(0.3)
            kill(workers(servers[-1])[0])
        for thread in threads:
            thread.join()

    with serving(tiny_repository, tmp_path, workers=4) as server:
        servers.append(server)
        ok(Gui(server).fit(good(4)))
        inspect(range(50), usual, killing=True)
        victims = [psutil.Process(server.process.pid), *workers(server)]
        stations = threading.Thread(target=inspect, args=(range(50, 120), usual))
        stations.start()
        time.sleep(0.5)
        for victim in victims:
            kill(victim)
        server.process.wait(20)
        with serving(tiny_repository, tmp_path, workers=2) as other:
            servers.append(other)
            stations.join()
            inspect(range(120, 150), shifted)
            repeated = [insist(servers, f"part-{n}", shifted[0]) for n in range(0, 120, 17)]
            states = [ok(Gui(other).get("/state"))["drift"] for _ in range(12)]

    assert len(answers) == 150 == len({a["request_id"] for a in answers})
    by_request = {a["request_id"]: a["drift"] for a in answers}
    assert [r["drift"] for r in repeated] == [by_request[r["request_id"]] for r in repeated]
    replayed = outsider.replay_answers(answers)
    assert replayed["parts"] == len(answers)
    assert replayed["alarm_at"] is not None
    for state in states:
        for key in ("parts", "alarm_at", "direction", "log10_martingale", "log10_max"):
            assert state[key] == replayed[key]
    for answer in answers:
        drift = answer["drift"]
        assert drift["p_value"] == replayed["p_values"][drift["sequence"] - 1]
        assert drift["log10_martingale"] == replayed["curve"][drift["sequence"] - 1]
    with sqlite3.connect(tmp_path / "data" / "patchlight.db") as log:
        assert log.execute("SELECT count(*), max(sequence) FROM verdicts").fetchone() == (150, 150)
        assert log.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    log.close()
