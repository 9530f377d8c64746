"""The drift alarm over HTTP: what is counted, what is told, and what a failing database costs."""

from __future__ import annotations

import io
import json
import sqlite3
import time
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from orchestrator.settings import Settings
from tests import outsider
from tests.conftest import MakeClient
from tests.gui import Gui, files_of, ok, refused
from tests.pictures import bad, good


@pytest.fixture
def gui(client: TestClient) -> Gui:
    """Give a GUI whose target is fitted."""
    gui = Gui(client)
    ok(gui.fit(good(4)))
    return gui


def named(gui: Gui, request_id: str) -> Gui:
    return Gui(gui.client, **{"X-Request-Id": request_id})


def packed(files: dict[str, bytes]) -> list[Any]:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return [("zip_file", ("parts.zip", buffer.getvalue(), "application/zip"))]


def drift_of(gui: Gui) -> dict[str, Any]:
    drift: dict[str, Any] = ok(gui.get("/state"))["drift"]
    return drift


def test_every_part_is_counted_once_and_the_answers_replay_to_the_state(gui: Gui) -> None:
    images = good(6, start=50) + bad(2)
    answers = [ok(named(gui, f"part-{i}").infer(image)) for i, image in enumerate(images)]
    assert [a["drift"]["sequence"] for a in answers] == list(range(1, 9))
    assert all(a["drift"]["score"] == a["score"] for a in answers)
    again = ok(named(gui, "part-3").infer(bad(1, start=99)[0]))
    assert again["score"] != again["drift"]["score"]
    assert again["drift"] == answers[3]["drift"]
    replayed = outsider.replay_answers([*answers, again])
    shown = ok(gui.get("/drift"))
    assert [p["score"] for p in shown["points"]] == [a["score"] for a in answers]
    for key in ("parts", "alarm_at", "direction", "log10_martingale", "log10_max"):
        assert shown[key] == drift_of(gui)[key] == ok(gui.get("/manifest"))["drift"][key] == replayed[key]


def test_a_shift_raises_the_alarm_and_says_where_to(gui: Gui) -> None:
    usual, shifted = good(8, start=50), bad(8)
    answers = [ok(gui.infer(usual[i % 8], include_heatmap="false")) for i in range(64)]
    assert drift_of(gui)["phase"] == "watching"
    for i in range(40):
        answers.append(ok(gui.infer(shifted[i % 8], include_heatmap="false")))
        if answers[-1]["drift"]["alarm"]:
            break
    state, replayed = drift_of(gui), outsider.replay_answers(answers)
    assert (state["phase"], state["alarm"], state["direction"]) == ("alarm", True, "rising")
    assert state["alarm_at"] == replayed["alarm_at"] == len(answers)
    assert [a["drift"]["p_value"] for a in answers] == replayed["p_values"]
    assert [a["drift"]["log10_martingale"] for a in answers] == replayed["curve"]


def test_predictions_count_item_by_item_and_stored_samples_do_not(gui: Gui) -> None:
    ok(gui.upload("ok", good(2, start=70)))
    ok(gui.json("/infer_dataset"))
    assert drift_of(gui)["parts"] == 0
    one = [("image", ("a.png", good(1)[0], "image/png"))]
    assert ok(gui.post("/predict", one))["scores"][0]["drift"]["sequence"] == 1
    images = [good(1, start=60)[0], b"no image", good(1, start=61)[0]]
    first = ok(named(gui, "many").post("/predict/batch", files_of(images)))["results"]
    assert [r["drift"] and r["drift"]["sequence"] for r in first] == [2, None, 3]
    again = ok(named(gui, "many").post("/predict/batch", files_of(images)))["results"]
    assert [r["drift"] for r in again] == [r["drift"] for r in first]
    archive = packed({"a.png": images[0], "b/c.png": images[2]})
    assert [r["drift"]["sequence"] for r in ok(gui.post("/predict/zip", archive))["results"]] == [4, 5]
    other = json.dumps([{**gui.ids, "roi_id": "none"}, gui.ids])
    mixed = gui.client.request(
        "POST", "/predict/batch", data={"targets": other}, files=files_of(images[:1] * 2)
    )
    assert [r["drift"] and r["drift"]["sequence"] for r in ok(mixed)["results"]] == [None, 6]


def test_a_batch_that_fails_as_a_whole_counts_nothing(gui: Gui) -> None:
    ok(gui.infer(good(1)[0]))
    refused(gui.post("/predict/batch", files_of(good(2)), mm_per_px="0.7"), 409)
    assert drift_of(gui)["parts"] == 1


def test_a_refit_and_a_reset_begin_anew(gui: Gui) -> None:
    ok(gui.infer(good(1, start=50)[0]))
    reset = ok(gui.json("/drift/reset"))
    assert (reset["epoch"], reset["parts"], reset["phase"], reset["points"]) == (1, 0, "reference", [])
    assert ok(gui.infer(good(1, start=51)[0]))["drift"]["epoch"] == 1
    ok(gui.fit(good(4, start=9)))
    state = drift_of(gui)
    assert (state["bank_generation"], state["epoch"], state["parts"]) == (2, 0, 0)
    assert ok(gui.infer(good(1, start=52)[0]))["drift"]["sequence"] == 1


def test_without_a_memory_there_is_no_drift_and_a_sentence_that_clients_know(client: TestClient) -> None:
    gui = Gui(client)
    assert ok(gui.get("/state"))["drift"] is None
    assert ok(gui.get("/manifest"))["drift"] is None
    refused(gui.get("/drift"), 400, "Memoria no encontrada", "memory not fitted", "/fit_ok")
    refused(gui.json("/drift/reset"), 400, "Memoria no encontrada")
    refused(gui.get("/drift", points=10_001), 422, "points")


def test_the_points_shown_are_the_last_ones(gui: Gui) -> None:
    for image in good(4, start=50):
        ok(gui.infer(image))
    assert [p["sequence"] for p in ok(gui.get("/drift", points=2))["points"]] == [3, 4]
    assert ok(gui.get("/drift", points=0))["points"] == []


def test_metrics_show_each_target_s_drift(make_client: MakeClient) -> None:
    client = make_client(enable_metrics=True)
    gui = Gui(client)
    ok(gui.fit(good(4)))
    for image in good(3, start=50):
        ok(gui.infer(image))

    def shown() -> dict[str, float]:
        lines = client.get("/metrics").text.splitlines()
        wanted = [line.rsplit(" ", 1) for line in lines if line.startswith("patchlight_drift")]
        assert all('roi_id="inspection-1"' in name for name, _ in wanted)
        return {name.partition("{")[0].removeprefix("patchlight_drift_"): float(v) for name, v in wanted}

    assert shown() == {"parts": 3, "log10_martingale": 0, "alarm": 0}
    ok(gui.json("/drift/reset"))
    assert shown()["parts"] == 0


def test_switched_off_there_is_no_database_and_nothing_is_counted(
    make_client: MakeClient, settings: Settings
) -> None:
    gui = Gui(make_client(drift=False))
    ok(gui.fit(good(4)))
    assert ok(gui.infer(good(1)[0]))["drift"] is None
    assert drift_of(gui) is None
    refused(gui.get("/drift"), 404, "BDI_DRIFT=true")
    assert ok(gui.client.request("GET", "/health"))["drift"] == "off"
    assert not (settings.data_root / "patchlight.db").exists()


def _lock(settings: Settings) -> Callable[[], None]:
    locker = sqlite3.connect(settings.data_root / "patchlight.db", isolation_level=None)
    locker.execute("BEGIN IMMEDIATE")
    return locker.close


def test_while_the_database_is_locked_verdicts_go_on_and_health_says_so(gui: Gui, settings: Settings) -> None:
    ok(gui.json("/calibrate_ng", ok_scores=[0.5]))
    release = _lock(settings)
    answers = [ok(gui.infer(bad(1)[0])) for _ in range(3)]
    assert [(a["decision"], a["drift"]) for a in answers] == [("ng", None)] * 3
    health = ok(gui.client.request("GET", "/health"))
    assert (health["status"], health["drift"]) == ("ok", "unavailable")
    assert "locked" in health["drift_reason"]
    refused(gui.json("/drift/reset"), 503, "database")
    release()
    time.sleep(1.0)
    assert ok(gui.client.request("GET", "/health"))["drift"] == "on"
    assert ok(gui.infer(bad(1)[0]))["drift"]["sequence"] == 1


def test_with_a_damaged_database_the_server_starts_and_judges(
    make_client: MakeClient, settings: Settings
) -> None:
    settings.data_root.mkdir()
    (settings.data_root / "patchlight.db").write_bytes(b"no database" * 1000)
    gui = Gui(make_client())
    ok(gui.fit(good(4)))
    assert ok(gui.infer(good(1)[0]))["drift"] is None
    assert (drift_of(gui), ok(gui.get("/manifest"))["drift"]) == (None, None)
    refused(gui.get("/drift"), 503, "not a database")
    assert "not a database" in ok(gui.client.request("GET", "/health"))["drift_reason"]


def epochs_of(answers: list[dict[str, Any]]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for answer in answers:
        found.setdefault(answer["drift"]["epoch"], []).append(answer["drift"]["sequence"])
    return found


def test_a_calibration_with_another_percentile_begins_an_epoch_and_raises_no_alarm(gui: Gui) -> None:
    usual = good(4, start=50)

    def inspect(count: int) -> list[dict[str, Any]]:
        return [ok(gui.infer(usual[i % 4], include_heatmap="false")) for i in range(count)]

    before = inspect(64)
    ok(gui.json("/calibrate_ng", ok_scores=[0.5], score_percentile=50))
    state = drift_of(gui)
    assert (state["epoch"], state["parts"], state["phase"]) == (1, 0, "reference")
    under = inspect(30)
    assert under[0]["score"] != before[0]["score"]
    assert not any(a["drift"]["alarm"] for a in under)
    # Back to the old law, the old epoch goes on where it was.
    ok(gui.json("/calibrate_ng", ok_scores=[0.5], score_percentile=99))
    after = inspect(2)
    assert epochs_of(before + under + after) == {0: list(range(1, 67)), 1: list(range(1, 31))}
    for answers in (before + after, under):
        replayed = outsider.replay_answers(answers)
        assert replayed["alarm_at"] is None
        assert [a["drift"]["log10_martingale"] for a in answers] == replayed["curve"]
    assert drift_of(gui)["log10_martingale"] == after[-1]["drift"]["log10_martingale"]


def test_an_epoch_begins_with_whatever_else_makes_other_scores(make_client: MakeClient) -> None:
    gui = Gui(make_client())
    ok(gui.fit(good(4)))

    def seen(**changes: Any) -> tuple[int, int]:
        drift = ok(Gui(make_client(**changes)).infer(good(1, start=50)[0]))["drift"]
        return drift["epoch"], drift["sequence"]

    assert seen() == (0, 1)
    assert seen(blur_sigma=2.0) == (1, 1)
    assert seen(distance="cosine") == (2, 1)
    assert seen(score_percentile=90) == (3, 1)
    assert seen() == (0, 2)
    # A reset ends them all.
    ok(gui.json("/drift/reset"))
    assert seen() == (4, 1)
    assert seen(blur_sigma=2.0) == (5, 1)


def test_a_rule_that_knows_no_percentile_and_no_blur_keeps_its_epoch(make_client: MakeClient) -> None:
    gui = Gui(make_client())
    ok(gui.fit(good(4), score_rule="max"))
    ok(gui.infer(good(1, start=50)[0]))
    ok(gui.json("/calibrate_ng", ok_scores=[0.5], score_percentile=50))
    drift = ok(Gui(make_client(blur_sigma=2.0)).infer(good(1, start=51)[0]))["drift"]
    assert (drift["epoch"], drift["sequence"]) == (0, 2)


def test_a_legacy_bank_that_is_replaced_begins_an_epoch(make_client: MakeClient, settings: Settings) -> None:
    gui = Gui(make_client(legacy_backbone="tiny"))
    file = settings.data_root / "models" / "Inspection" / "inspection-1" / "embeddings.npy"
    file.parent.mkdir(parents=True)
    seen = []
    for seed in (0, 1, 0):
        rows = np.random.default_rng(seed).normal(size=(40, 64)).astype(np.float32)
        np.save(file, rows / np.linalg.norm(rows, axis=1, keepdims=True))
        drift = ok(gui.infer(good(1, start=50)[0]))["drift"]
        assert drift_of(gui)["epoch"] == drift["epoch"]
        seen.append((drift["epoch"], drift["sequence"]))
    assert seen == [(0, 1), (1, 1), (0, 2)]


def test_parts_are_judged_and_soon_counted_again_after_the_log_was_emptied(
    gui: Gui, settings: Settings
) -> None:
    images = good(3, start=50)
    ok(gui.infer(images[0]))
    with sqlite3.connect(settings.data_root / "patchlight.db") as log:
        for table in ("verdicts", "epochs", "streams"):
            log.execute(f"DELETE FROM {table}")
    log.close()
    answer = ok(gui.infer(images[1]))
    assert (answer["score"] > 0, answer["drift"]) == (True, None)
    time.sleep(1.0)
    assert ok(gui.infer(images[2]))["drift"]["sequence"] == 1
    assert drift_of(gui)["parts"] == 1


def test_a_part_sent_again_after_a_reset_leaves_the_metrics_as_they_are(make_client: MakeClient) -> None:
    client = make_client(enable_metrics=True)
    gui = Gui(client)
    ok(gui.fit(good(4)))
    for i in range(3):
        ok(named(gui, f"part-{i}").infer(good(1, start=50)[0]))
    ok(gui.json("/drift/reset"))
    ok(gui.infer(good(1, start=51)[0]))
    again = ok(named(gui, "part-2").infer(good(1, start=50)[0]))["drift"]
    assert (again["epoch"], again["sequence"]) == (0, 3)
    shown = [x for x in client.get("/metrics").text.splitlines() if x.startswith("patchlight_drift_parts{")]
    assert [float(line.rsplit(" ", 1)[1]) for line in shown] == [1]
