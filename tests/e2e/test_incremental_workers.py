"""Additions and removals over real workers: those that meet all land, and a kill leaves the bank that was."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import httpx2 as httpx
import pytest

from orchestrator.domain.bank import BankRecord
from orchestrator.storage.banks import decode_bank
from tests.e2e.server import Server, serving
from tests.e2e.test_workers import ask, pid_of
from tests.gui import ok
from tests.pictures import good


def bank_of(folder: Path) -> BankRecord:
    (path,) = (folder / "data").glob("recipes/*/*/*.npz")
    return decode_bank(path.read_bytes(), str(path))


@pytest.mark.slow
def test_additions_that_race_over_four_workers_all_land(tiny_repository: Path, tmp_path: Path) -> None:
    with serving(tiny_repository, tmp_path, workers=4) as server:
        ok(ask(server, "first").fit(good(6)))
        listed = ok(ask(server, "list").get("/datasets/list"))["classes"]["ok"]["files"]
        generations: list[int] = []

        def add(index: int) -> None:
            answer = ask(server, f"add-{index}").fit(good(2, start=100 + 10 * index), accumulate="true")
            generations.append(ok(answer)["bank_generation"])

        def remove() -> None:
            fields = {"label": "ok", "filename": listed[0], "refit": "true"}
            generations.append(
                ok(ask(server, "remove").delete("/datasets/file", **fields))["bank_generation"]
            )

        threads = [threading.Thread(target=add, args=(i,)) for i in range(6)]
        threads.append(threading.Thread(target=remove))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(generations) == list(range(2, 9))
        assert len({pid_of(server, "fit_ok.response", f"add-{i}") for i in range(6)}) > 1
        record = bank_of(tmp_path)
        assert len(set(record.metadata.sample_sha256)) == 5 + 6 * 2
        assert record.metadata.n_embeddings == 17 * 48
        assert set(record.row_sample) <= set(range(17))


def _until_running(server: Server) -> None:
    for attempt in range(500):
        if ok(ask(server, f"status-{attempt}").get("/train/status"))["status"] == "running":
            return
        time.sleep(0.01)
    raise AssertionError("the addition never ran")


@pytest.mark.slow
def test_an_addition_that_is_killed_leaves_the_bank_and_the_samples_that_were(
    tiny_repository: Path, tmp_path: Path
) -> None:
    with serving(tiny_repository, tmp_path) as server:
        ok(ask(server, "first").fit(good(6)))
        before = bank_of(tmp_path)

        def add() -> None:
            with pytest.raises(httpx.TransportError):
                ask(server, "killed").fit(good(200, start=100), accumulate="true")

        thread = threading.Thread(target=add)
        thread.start()
        _until_running(server)
        server.process.kill()
        thread.join()
    with serving(tiny_repository, tmp_path) as server:
        assert bank_of(tmp_path).metadata == before.metadata
        assert ok(ask(server, "list").get("/datasets/list"))["classes"]["ok"]["count"] == 6
        again = ok(ask(server, "again").fit(good(3, start=100), accumulate="true"))
        assert (again["bank_generation"], again["n_embeddings"]) == (2, 9 * 48)
