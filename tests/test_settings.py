from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.domain.memory_options import MemoryOptions, Tiling
from orchestrator.launch.docs import settings_table
from orchestrator.settings import Settings, SettingsError, load_settings


@pytest.fixture(autouse=True)
def _empty_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def test_published_defaults() -> None:
    s = load_settings()
    assert (s.backend_host, s.backend_port, s.data_root) == ("127.0.0.1", 8000, Path("data"))
    assert (s.coreset_rate, s.score_percentile, s.area_mm2_thr) == (0.10, 99.0, 1.0)
    assert (s.max_image_bytes, s.max_image_pixels, s.cors_origins) == (32 << 20, 64_000_000, "*")
    assert (s.api_key, s.triton_url, s.enable_metrics, s.min_ok_samples) == (None, None, False, 10)


def test_sources_rank_bdi_brakedisc_other_names_yaml_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "app.yaml").write_text("backend_port: 1\n")
    ranked = [("PORT", 2), ("BRAKEDISC_BACKEND_PORT", 3), ("BDI_BACKEND_PORT", 4)]
    assert load_settings().backend_port == 1
    for name, value in ranked:
        monkeypatch.setenv(name, str(value))
        assert load_settings().backend_port == value
    assert load_settings(backend_port=5).backend_port == 5
    monkeypatch.setenv("BDI_BACKEND_PORT", "")
    assert load_settings().backend_port == 3


@pytest.mark.parametrize(
    ("name", "value", "field", "read"),
    [
        ("BACKEND_DEVICE", "cuda:0", "device", "cuda:0"),
        ("BACKEND_DATA_ROOT", "/srv", "data_root", Path("/srv")),
        ("PATCHCORE_CORESET_RATIO", "0.5", "coreset_rate", 0.5),
        ("PATCHCORE_DISTANCE", "Cosine", "distance", "cosine"),
        ("PATCHCORE_BATCH_SIZE", "3", "batch_size", 3),
        ("ENABLE_METRICS", "true", "enable_metrics", True),
        ("HOST", "0.0.0.0", "backend_host", "0.0.0.0"),
        ("BRAKEDISC_BACKBONE", "tiny", "backbone", "tiny"),
        ("BDI_REQUIRE_CALIBRATION", "1", "require_calibration", True),
        ("BDI_LOG_LEVEL", "INFO", "log_level", "info"),
    ],
)
def test_published_names_are_read(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, field: str, read: object
) -> None:
    monkeypatch.setenv(name, value)
    assert getattr(load_settings(), field) == read


def test_a_key_is_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKEND_API_KEY", "hunter2")
    settings = load_settings()
    assert settings.api_key is not None
    assert settings.api_key.get_secret_value() == "hunter2"
    assert "hunter2" not in repr(settings)


def test_a_blank_key_is_refused_rather_than_open(tmp_path: Path) -> None:
    Path("configs").mkdir()
    Path("configs/app.yaml").write_text("api_key: ' '\n")
    with pytest.raises(SettingsError, match="blank"):
        load_settings()


def test_bare_names_in_the_environment_are_somebody_else_s(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DEBUG", "THREADS", "WORKERS", "API_KEY", "BACKBONE", "DISTANCE"):
        monkeypatch.setenv(name, "1")
    settings = load_settings()
    assert (settings.debug, settings.threads, settings.workers) == (False, 0, 1)
    assert (settings.api_key, settings.backbone) == (None, None)


def test_yaml_is_read_from_the_published_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Path("backend").mkdir()
    Path("backend/config.yaml").write_text("PATCHCORE_CORESET_RATIO: 0.3\nBDI_BATCH_SIZE: 2\n")
    assert (load_settings().coreset_rate, load_settings().batch_size) == (0.3, 2)
    Path("configs").mkdir()
    Path("configs/app.yaml").write_text("coreset_rate: 0.4\n")
    assert (load_settings().coreset_rate, load_settings().batch_size) == (0.4, 8)
    (tmp_path / "own.yaml").write_text("coreset_rate: 0.6\n")
    monkeypatch.setenv("BDI_CONFIG", str(tmp_path / "own.yaml"))
    assert load_settings().coreset_rate == 0.6


@pytest.mark.parametrize(
    ("content", "words"), [("- 1", "mapping"), ("{", "YAML"), ("coreset_rat: 1", "coreset_rat")]
)
def test_a_wrong_yaml_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str, words: str
) -> None:
    (tmp_path / "own.yaml").write_text(content)
    monkeypatch.setenv("BDI_CONFIG", str(tmp_path / "own.yaml"))
    with pytest.raises(SettingsError, match=words):
        load_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CORESET_RATE", "0"),
        ("CORESET_RATE", "nan"),
        ("SCORE_PERCENTILE", "101"),
        ("AREA_MM2_THR", "-1"),
        ("AREA_MM2_THR", "inf"),
        ("DISTANCE", "l1"),
        ("BACKEND_PORT", "70000"),
        ("REQUEST_TIMEOUT_S", "0"),
        ("WORKERS", "0"),
    ],
)
def test_a_value_out_of_range_names_its_setting(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"BDI_{name}", value)
    with pytest.raises(SettingsError, match=name):
        load_settings()


def test_settings_travel_to_workers_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = load_settings(coreset_rate=0.25, api_key="k", triton_url="h:1", enable_metrics=True)
    for name, value in chosen.as_environment().items():
        monkeypatch.setenv(name, value)
    assert load_settings() == chosen


def test_every_setting_is_documented() -> None:
    table = settings_table()
    for name, field in Settings.model_fields.items():
        assert field.description
        assert f"| `BDI_{name.upper()}` |" in table


@pytest.mark.parametrize(
    "url", ["postgresql://host/db", "sqlite://", "sqlite:///file?mode=ro", "patchlight.db"]
)
def test_a_database_that_this_release_does_not_know_is_refused(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BDI_DATABASE_URL", url)
    with pytest.raises(SettingsError, match="sqlite:"):
        load_settings()


def test_quality_options_are_settings_and_must_fit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().memory_options == MemoryOptions()
    for name, value in {
        "AUGMENTATION": "Flips",
        "FOREGROUND": "true",
        "TILE_PX": "640",
        "SCORE_RULE": "MAX",
    }.items():
        monkeypatch.setenv(f"BDI_{name}", value)
    assert load_settings().memory_options == MemoryOptions("flips", True, Tiling(640, 160), "max")
    assert load_settings(tile_overlap_px=128).memory_options.tiling == Tiling(640, 128)
    for change, named in (
        ({"tile_overlap_px": 640}, "tile_overlap_px"),
        ({"tile_px": 10}, "tile_px"),
        ({"score_rule": "median"}, "score_rule"),
        ({"tile_px": 0, "tile_overlap_px": 5}, "tile_overlap_px"),
    ):
        with pytest.raises(SettingsError, match=named):
            load_settings(**change)
