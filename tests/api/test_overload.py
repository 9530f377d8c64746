"""More than a process can take: refused at once, with a time to come back; and slow features end in 504."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from orchestrator.features.onnx import OnnxExtractor
from orchestrator.features.repository import ModelRepository
from tests.conftest import MakeClient
from tests.fakes import HeldExtractor
from tests.gui import Answer, Gui, files_of, ok, refused
from tests.pictures import good


def wait_for(extractor: HeldExtractor, count: int) -> None:
    deadline = time.monotonic() + 10
    while extractor.waiting < count:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_inspections_beyond_the_permits_are_429_at_once(
    make_client: MakeClient, tiny_repository: Path
) -> None:
    extractor = HeldExtractor(OnnxExtractor(ModelRepository(tiny_repository), threads=1), held=False)
    gui = Gui(make_client(extractor=extractor, max_inflight=2))
    ok(gui.fit(good(3)))
    extractor.release.clear()
    answers: list[Answer] = []
    threads = [threading.Thread(target=lambda: answers.append(gui.infer(good(1)[0]))) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_for(extractor, 2)
    started = time.monotonic()
    for answer in (
        gui.infer(good(1)[0]),
        gui.post("/predict/batch", files_of(good(1))),
        gui.json("/infer_dataset"),
        gui.post("/explain", [("image", ("a.png", good(1)[0]))]),
    ):
        assert refused(answer, 429)["error_code"] == "overloaded"
        assert answer.headers["retry-after"] == "1"
    assert time.monotonic() - started < 2
    extractor.release.set()
    for thread in threads:
        thread.join()
    assert [a.status_code for a in answers] == [200, 200]
    ok(gui.infer(good(1)[0]))


def test_features_that_take_too_long_are_504_and_leave_nothing(
    make_client: MakeClient, tiny_repository: Path
) -> None:
    extractor = HeldExtractor(OnnxExtractor(ModelRepository(tiny_repository), threads=1))
    gui = Gui(make_client(extractor=extractor, fit_timeout_s=0.2))
    answer = gui.fit(good(3))
    assert refused(answer, 504)["error_code"] == "deadline_exceeded"
    assert ok(gui.get("/datasets/list"))["classes"] == {}
    assert ok(gui.get("/manifest"))["mm_per_px"] is None
    assert ok(gui.get("/train/status"))["status"] == "idle"


def test_a_running_fit_is_shown_and_others_wait_behind_it(
    make_client: MakeClient, tiny_repository: Path
) -> None:
    extractor = HeldExtractor(OnnxExtractor(ModelRepository(tiny_repository), threads=1))
    gui = Gui(make_client(extractor=extractor))
    answers: list[Answer] = []
    threads = [threading.Thread(target=lambda: answers.append(gui.fit(good(2)))) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_for(extractor, 1)
    time.sleep(0.2)
    status = ok(gui.get("/train/status"))
    assert (status["status"], status["queue_size"], status["coreset_size"]) == ("running", 1, 0)
    extractor.release.set()
    for thread in threads:
        thread.join()
    assert sorted(ok(a)["bank_generation"] for a in answers) == [1, 2]
    assert ok(gui.get("/train/status"))["status"] == "idle"
