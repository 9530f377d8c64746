from __future__ import annotations

from pathlib import Path

from orchestrator.launch.database import current, upgrade
from orchestrator.launch.doctor import Finding, examine
from orchestrator.settings import load_settings


def _found(**options: object) -> dict[str, Finding]:
    return {finding.name: finding for finding in examine(load_settings(**options))}


def test_a_data_root_that_cannot_be_written_is_bad_and_has_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    finding = _found(data_root=tmp_path / "file" / "below")["store"]
    assert finding.state == "bad"


def test_the_database_is_looked_at_and_not_made(tmp_path: Path) -> None:
    found = _found(data_root=tmp_path)["database"]
    assert (found.state, "will be made" in found.found, list(tmp_path.glob("*.db"))) == ("ok", True, [])
    upgrade(load_settings(data_root=tmp_path))
    assert "revision 0001" in _found(data_root=tmp_path)["database"].found
    assert current(load_settings(data_root=tmp_path)).endswith("patchlight.db: revision 0001")
    (tmp_path / "patchlight.db").write_bytes(b"damaged" * 999)
    assert _found(data_root=tmp_path)["database"].state == "bad"


def test_a_triton_that_does_not_listen_is_bad(tmp_path: Path) -> None:
    finding = _found(data_root=tmp_path, triton_url="127.0.0.1:9")["triton"]
    assert finding.state == "bad"
    assert "BDI_TRITON_URL" in finding.remedy


def test_an_open_address_without_a_key_is_noted(tmp_path: Path) -> None:
    assert _found(data_root=tmp_path, backend_host="0.0.0.0")["access"].state == "note"
    assert _found(data_root=tmp_path, backend_host="127.0.0.1")["access"].state == "ok"


def test_missing_weights_are_bad_only_where_they_are_named(tmp_path: Path) -> None:
    assert _found(data_root=tmp_path)["weights"].state in ("note", "ok")
    assert _found(data_root=tmp_path, weights=tmp_path / "none.pth")["weights"].state == "bad"
