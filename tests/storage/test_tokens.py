from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest

from orchestrator.storage.files import FileStore
from orchestrator.storage.tokens import StoredTokens, TokenKey, TokenStore
from tests.storage.test_files import full_disk_beyond

ENTRY = StoredTokens(
    np.random.default_rng(0).normal(size=(12, 64)).astype(np.float16), np.ones((3, 4), np.bool_), (30, 40)
)


def key(name: str, *, fingerprint: str = "f" * 64, view: str = "0" * 64) -> TokenKey:
    return TokenKey(name * 64, fingerprint, view)


def files(root: Path) -> list[Path]:
    return sorted(p for p in root.rglob("*") if p.is_file())


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    """Give a store with room."""
    return TokenStore(FileStore(tmp_path), 1 << 20)


def test_tokens_are_found_as_they_were_kept(store: TokenStore) -> None:
    assert store.find(key("a")) is None
    assert store.keep(key("a"), ENTRY)
    found = store.find(key("a"))
    assert found is not None
    assert np.array_equal(found.tokens, ENTRY.tokens)
    assert np.array_equal(found.patches, ENTRY.patches)
    assert found.crop == (30, 40)


def test_another_backbone_photograph_or_view_is_another_entry(store: TokenStore) -> None:
    store.keep(key("a"), ENTRY)
    for other in (key("b"), key("a", fingerprint="e" * 64), key("a", view="1" * 64)):
        assert store.find(other) is None
    # What only differs beyond the file name is told apart by what the file says.
    assert store.find(key("a", fingerprint="f" * 63 + "e")) is None


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04", b"not an archive"])
def test_a_damaged_entry_is_a_miss_and_goes(store: TokenStore, tmp_path: Path, damage: bytes) -> None:
    store.keep(key("a"), ENTRY)
    (file,) = files(tmp_path)
    file.write_bytes(damage)
    assert store.find(key("a")) is None
    assert files(tmp_path) == []
    assert store.keep(key("a"), ENTRY)


def test_one_flipped_byte_anywhere_never_gives_other_tokens(store: TokenStore, tmp_path: Path) -> None:
    store.keep(key("a"), ENTRY)
    (file,) = files(tmp_path)
    whole = file.read_bytes()
    for place in range(0, len(whole), 37):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        found = store.find(key("a"))
        assert found is None or np.array_equal(found.tokens, ENTRY.tokens)


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    size = TokenStore(FileStore(tmp_path / "probe"), 1 << 20)
    size.keep(key("a"), ENTRY)
    (probe,) = files(tmp_path / "probe")
    store = TokenStore(FileStore(tmp_path / "root"), 5 * probe.stat().st_size)
    for age, name in enumerate("abcd"):
        store.keep(key(name), ENTRY)
        path = tmp_path / "root" / key(name).path
        os.utime(path, (1000 + age, 1000 + age))
    assert store.find(key("a")) is not None
    for name in "ef":
        store.keep(key(name), ENTRY)
    kept = {name for name in "abcdef" if store.find(key(name)) is not None}
    assert {"a", "e", "f"} <= kept
    assert "b" not in kept
    assert sum(p.stat().st_size for p in files(tmp_path / "root")) <= 5 * probe.stat().st_size


def test_a_bound_of_zero_or_below_one_entry_keeps_nothing(tmp_path: Path) -> None:
    for bound in (0, 100):
        store = TokenStore(FileStore(tmp_path), bound)
        assert not store.keep(key("a"), ENTRY)
        assert store.find(key("a")) is None
        assert files(tmp_path) == []


def test_a_full_disk_or_a_file_in_the_way_fails_nothing(tmp_path: Path) -> None:
    store = TokenStore(FileStore(tmp_path), 1 << 20)
    with full_disk_beyond(500):
        assert not store.keep(key("a"), ENTRY)
    assert files(tmp_path) == []
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "cache").write_text("in the way")
    store = TokenStore(FileStore(blocked), 1 << 20)
    assert not store.keep(key("a"), ENTRY)
    assert store.find(key("a")) is None
    store.forget("a" * 64)


def test_a_forgotten_photograph_is_gone_for_every_backbone_and_view(
    store: TokenStore, tmp_path: Path
) -> None:
    for entry in (key("a"), key("a", fingerprint="e" * 64), key("a", view="1" * 64), key("b")):
        store.keep(entry, ENTRY)
    store.forget("a" * 64)
    assert [p.name[0] for p in files(tmp_path)] == ["b"]


def test_a_cache_that_cannot_be_listed_fails_no_one_who_forgets(store: TokenStore, tmp_path: Path) -> None:
    store.keep(key("a"), ENTRY)
    (entry,) = files(tmp_path)
    # A folder whose link leads to itself cannot be listed.
    entry.unlink()
    entry.parent.rmdir()
    entry.parent.parent.rmdir()
    entry.parent.parent.symlink_to(entry.parent.parent)
    store.forget("a" * 64)


def _churn(root: str, names: str) -> None:
    store = TokenStore(FileStore(Path(root)), 20_000)
    for name in names * 10:
        store.keep(key(name), ENTRY)
        found = store.find(key(name))
        assert found is None or np.array_equal(found.tokens, ENTRY.tokens)


def test_processes_that_write_and_evict_side_by_side_disturb_nobody(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_churn, args=(str(tmp_path), names)) for names in ("abcdef", "defabc")]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert not [p for p in files(tmp_path) if p.name.startswith(".")]
