from __future__ import annotations

import socket
from pathlib import Path

import pytest

from orchestrator.errors import InvalidInput
from orchestrator.features.repository import ModelRepository
from orchestrator.launch.backbone import Prepared
from orchestrator.launch.newcomer import check_port, settle, wants_demo
from orchestrator.settings import load_settings
from orchestrator.storage.choice import ChoiceStore
from orchestrator.storage.files import FileStore


def test_a_port_that_is_taken_is_refused_before_anything_is_prepared() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        with pytest.raises(InvalidInput, match="BDI_BACKEND_PORT"):
            check_port(load_settings(backend_port=holder.getsockname()[1]))


def test_the_reason_for_a_fallback_is_kept_with_the_choice(tiny_repository: Path, tmp_path: Path) -> None:
    spec = ModelRepository(tiny_repository).spec("tiny")
    settings = load_settings(data_root=tmp_path, model_repository=tiny_repository, backbone="tiny")
    settle(settings, Prepared(spec, "the hub is away", None))
    settle(settings, Prepared(spec, None, None))
    choice = ChoiceStore(FileStore(tmp_path)).read()
    assert choice is not None
    assert choice.reason == "the hub is away"


def test_only_an_empty_store_wants_the_demo(tiny_repository: Path, tmp_path: Path) -> None:
    spec = ModelRepository(tiny_repository).spec("tiny")
    settings = load_settings(data_root=tmp_path)
    assert wants_demo(settings, spec)
    bank = tmp_path / "recipes" / "default" / "part" / "YQ__Yg.npz"
    bank.parent.mkdir(parents=True)
    bank.write_bytes(b"")
    assert not wants_demo(settings, spec)
