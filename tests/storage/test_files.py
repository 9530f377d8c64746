from __future__ import annotations

import multiprocessing
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.errors import NotFound, StoreUnavailable
from orchestrator.storage.files import FileStore


@contextmanager
def full_disk_beyond(size: int) -> Iterator[None]:
    """Let the kernel refuse writes beyond `size` bytes a file, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    """Give an empty store whose root does not exist yet."""
    return FileStore(tmp_path / "root")


def leftovers(store: FileStore) -> list[str]:
    return sorted(p.name for p in store.root.rglob("*") if p.is_file())


def test_a_moved_artifact_replaces_what_bore_the_name(store: FileStore) -> None:
    store.write("a/next", b"new")
    store.write("a/now", b"old")
    with full_disk_beyond(0):
        store.move("a/next", "a/now")
    assert (store.read("a/now"), leftovers(store)) == (b"new", ["now"])
    with pytest.raises(NotFound):
        store.move("a/next", "a/now")
    (store.root / "a/folder").mkdir()
    with pytest.raises(StoreUnavailable):
        store.move("a/now", "a/folder")
    assert store.read("a/now") == b"new"


def test_a_write_is_read_back_and_replaced_whole(store: FileStore) -> None:
    store.write("a/b/c.bin", b"one")
    first = store.etag("a/b/c.bin")
    store.write("a/b/c.bin", b"two")
    assert store.read("a/b/c.bin") == b"two"
    assert store.etag("a/b/c.bin") != first
    assert leftovers(store) == ["c.bin"]


def test_the_first_creator_wins(store: FileStore) -> None:
    won: list[int] = []
    threads = [
        threading.Thread(target=lambda i=i: won.append(i) if store.create("k", b"%d" % i) else None)
        for i in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert store.read("k") == b"%d" % won[0]
    assert leftovers(store) == ["k"]


def test_a_full_disk_leaves_the_old_artifact_and_nothing_else(store: FileStore) -> None:
    store.write("a/x", b"old")
    with full_disk_beyond(1000):
        for write in (store.write, store.create):
            with pytest.raises(StoreUnavailable, match="a/"):
                write("a/x" if write == store.write else "a/y", bytes(2000))
    assert store.read("a/x") == b"old"
    assert leftovers(store) == ["x"]


def test_what_is_missing_is_not_found(store: FileStore) -> None:
    store.write("folder/x", b"")
    for key in ("none", "folder", "folder/x/y"):
        with pytest.raises(NotFound):
            store.read(key)
    assert store.etag("none") is None
    assert store.delete("none") is False
    assert store.names("none") == store.folders("none") == []


def test_names_are_sorted_and_hide_what_is_staged(store: FileStore) -> None:
    for key in ("f/b", "f/a", "f/.hidden", "f/sub/x"):
        store.write(key, b"")
    assert store.names("f") == ["a", "b"]
    assert store.folders("f") == ["sub"]


def test_a_root_that_is_a_file_is_unavailable(store: FileStore) -> None:
    store.root.write_text("x")
    for act in (lambda: store.write("a", b""), store.check, lambda: store.append("a", "x")):
        with pytest.raises(StoreUnavailable):
            act()
    with pytest.raises(StoreUnavailable), store.lock("a"):
        pass


def _count(root: str, times: int) -> None:
    store = FileStore(Path(root))
    for _ in range(times):
        with store.lock("counter"):
            value = int(store.read("n"))
            time.sleep(0.001)
            store.write("n", b"%d" % (value + 1))


def test_a_lock_excludes_processes_and_threads(store: FileStore) -> None:
    store.write("n", b"0")
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_count, args=(str(store.root), 20)) for _ in range(2)]
    threads = [threading.Thread(target=_count, args=(str(store.root), 20)) for _ in range(2)]
    for worker in (*processes, *threads):
        worker.start()
    for worker in (*processes, *threads):
        worker.join()
    assert store.read("n") == b"80"
