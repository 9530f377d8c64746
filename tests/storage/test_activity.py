from __future__ import annotations

import json
import time
from pathlib import Path

from orchestrator.storage.activity import DEAD_AFTER_S, Activity, ActivityStore, new_lease
from orchestrator.storage.files import FileStore


def aged(root: Path, lease: str, seconds: float) -> None:
    path = root / "status" / "fits" / f"{lease}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"ts": time.time() - seconds}))


def test_before_any_fit_all_is_idle(tmp_path: Path) -> None:
    assert ActivityStore(FileStore(tmp_path)).read() == Activity(0, 0, None, None, 0)


def test_leases_of_all_processes_are_counted(tmp_path: Path) -> None:
    here, there = ActivityStore(FileStore(tmp_path)), ActivityStore(FileStore(tmp_path))
    running, waiting = new_lease(), new_lease()
    here.beat(running, "running", "a/b", 0.4)
    there.beat(waiting, "waiting", "a/c", 0.0)
    assert here.read() == there.read() == Activity(1, 1, 0.4, None, 0)
    here.close(running)
    there.completed("2026-01-01T00:00:00Z", 12)
    assert here.read() == Activity(0, 1, None, "2026-01-01T00:00:00Z", 12)


def test_a_lease_without_a_heartbeat_is_dead_after_ten_seconds(tmp_path: Path) -> None:
    store = ActivityStore(FileStore(tmp_path))
    lease = new_lease()
    store.beat(lease, "running", "a/b", 0.0)
    aged(tmp_path, lease, DEAD_AFTER_S - 2)
    assert store.read().running == 1
    aged(tmp_path, lease, DEAD_AFTER_S + 1)
    assert store.read().running == 0


def test_long_dead_and_unreadable_leases_are_swept_or_skipped(tmp_path: Path) -> None:
    store = ActivityStore(FileStore(tmp_path))
    lease = new_lease()
    store.beat(lease, "running", "a/b", 0.0)
    aged(tmp_path, lease, 1000)
    (tmp_path / "status" / "fits" / "broken.json").write_text("{")
    assert store.read().running == 0
    assert [p.name for p in (tmp_path / "status" / "fits").iterdir()] == ["broken.json"]
