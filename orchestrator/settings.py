"""Every knob, in one frozen class; the only reader of the environment.

Precedence: `BDI_` > `BRAKEDISC_` > the other published names > YAML > default. The README's table is generated
from the docstrings here.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    AliasChoices,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from orchestrator.domain.memory_options import Augmentation, MemoryOptions, ScoreRule, choose_options
from orchestrator.errors import InvalidInput, PatchlightError

_SQLITE = re.compile(r"sqlite(\+aiosqlite)?:///[^?#]+")
# 1,024 real patches, D = 384, one core: at 50,000 rows 139 ms exact and 81 ms through the index, at 90,000 rows
# 238 and 129 ms, with the nearest row found for 99 %; at 10,000 rows 30 and 28 ms, no reason to miss any.
INDEX_MIN_ROWS = 50_000

YAML_PLACES = ("configs/app.yaml", "backend/config.yaml")


class SettingsError(PatchlightError):
    """A setting cannot be read; the sentence names it."""

    code = "invalid_settings"


def _finite_positive(value: float) -> float:
    if not 0 < value < float("inf"):
        raise ValueError("must be > 0 and finite")
    return value


def _lower(value: Any) -> Any:
    return value.strip().lower() if isinstance(value, str) else value


def _not_blank(value: SecretStr) -> SecretStr:
    # A blank key would look like authentication and be none.
    if not value.get_secret_value().strip():
        raise ValueError("must not be blank; leave it out to ask for no key")
    return value


def _sqlite(value: str) -> str:
    if not _SQLITE.fullmatch(value):
        raise ValueError(
            "must be like sqlite:////path/to/patchlight.db; this release knows no other database"
        )
    return value


def _knob(default: Any, name: str, *others: str) -> Any:
    upper = name.upper()
    return Field(default, validation_alias=AliasChoices(f"BDI_{upper}", f"BRAKEDISC_{upper}", *others))


Positive = Annotated[float, AfterValidator(_finite_positive)]


class Settings(BaseSettings):
    """What a deployment can choose."""

    model_config = SettingsConfigDict(
        frozen=True,
        populate_by_name=True,
        use_attribute_docstrings=True,
        env_ignore_empty=True,
        extra="ignore",
    )

    backend_host: str = _knob("127.0.0.1", "backend_host", "HOST")
    """Address that the API listens on."""
    backend_port: Annotated[int, Field(ge=0, le=65535)] = _knob(8000, "backend_port", "PORT")
    """Port that the API listens on; 0 takes a free one."""
    workers: Annotated[int, Field(ge=1, le=256)] = _knob(1, "workers")
    """API processes. They share nothing but the store."""
    data_root: Path = _knob(Path("data"), "data_root", "BACKEND_DATA_ROOT")
    """Folder of everything that is stored."""
    models_dir: Path = _knob(Path("."), "models_dir")
    """Folder that holds `recipes/`; a relative path lies below the data root."""
    model_repository: Path = _knob(Path("model_repository"), "model_repository")
    """Triton's model repository, with a `manifest.json` beside every graph."""
    backbone: str | None = _knob(None, "backbone")
    """Backbone to use. Unset, the data root's own choice stands; set to another, the data root changes over."""
    weights: Path | None = _knob(None, "weights")
    """Local `.safetensors` or `.pth` for the first export of DINOv2, instead of the hub."""
    triton_url: str | None = _knob(None, "triton_url")
    """`host:port` of Triton's gRPC. Unset, features are computed in process by onnxruntime."""
    triton_home: Path = _knob(Path(".triton"), "triton_home")
    """Where the local Triton is installed by `patchlight triton`."""
    device: str = _knob("cpu", "device", "BACKEND_DEVICE")
    """What `/health` names as the device that features are computed on."""
    coreset_rate: Annotated[float, Field(gt=0, le=1)] = _knob(0.10, "coreset_rate", "PATCHCORE_CORESET_RATIO")
    """Share of the patches that a memory bank keeps."""
    distance: Annotated[Literal["euclidean", "cosine"], BeforeValidator(_lower)] = _knob(
        "euclidean", "distance", "PATCHCORE_DISTANCE"
    )
    """Patch distance: Euclidean between unit vectors, in [0, 2], or 1 - cosine."""
    search_device: Annotated[Literal["cpu", "gpu"], BeforeValidator(_lower)] = _knob("cpu", "search_device")
    """What searches memory banks; `gpu` needs the extra `gpu` and an NVIDIA GPU, else the start is refused."""
    index_min_rows: Annotated[int, Field(ge=0)] = _knob(INDEX_MIN_ROWS, "index_min_rows")
    """A memory bank of more rows gets an inverted-file index at its fit; 0 compares every row of any bank."""
    batch_size: Annotated[int, Field(ge=1, le=64)] = _knob(8, "batch_size", "PATCHCORE_BATCH_SIZE")
    """Images per feature call while fitting."""
    score_percentile: Annotated[float, Field(gt=0, le=100)] = _knob(99.0, "score_percentile")
    """Percentile of the anomaly map that is the image score, unless the calibration says otherwise."""
    area_mm2_thr: Annotated[float, Field(ge=0, allow_inf_nan=False)] = _knob(1.0, "area_mm2_thr")
    """Regions smaller than this many mm² are dropped, unless the calibration says otherwise."""
    blur_sigma: Annotated[float, Field(ge=0, le=64)] = _knob(1.0, "blur_sigma")
    """Gaussian blur of the anomaly map, in crop pixels."""
    augmentation: Annotated[Augmentation, BeforeValidator(_lower)] = _knob("none", "augmentation")
    """What else of a good photograph enters a new bank: `none`, `flips`, `rotations` or `rotations_flips`."""
    foreground: bool = _knob(False, "foreground")
    """Let the patches of the background count for nothing in a new bank."""
    tile_px: Annotated[int, Field(ge=0)] = _knob(0, "tile_px")
    """Window over crops that are larger than it, side in crop pixels, for a new bank; 0 shrinks every crop whole."""
    tile_overlap_px: Annotated[int, Field(ge=0)] | None = _knob(None, "tile_overlap_px")
    """What neighbouring windows share at least, in crop pixels; unset, a quarter of the window."""
    score_rule: Annotated[ScoreRule, BeforeValidator(_lower)] = _knob("percentile", "score_rule")
    """From patch distances to a new bank's image score: `percentile`, `mean_top1`, `max` or `reweighted`."""
    min_ok_samples: Annotated[int, Field(ge=1)] = _knob(10, "min_ok_samples")
    """OK samples that a fit from the stored dataset needs."""
    require_calibration: bool = _knob(False, "require_calibration")
    """Refuse `/infer` with 428 while no calibration is in force."""
    database_url: Annotated[str, AfterValidator(_sqlite)] | None = _knob(None, "database_url")
    """Database, as `sqlite:////path/to/file`. Unset, `patchlight.db` in the data root; on a disk of this machine."""
    drift: bool = _knob(True, "drift")
    """Log every inspected part's score and watch each target for drift."""
    drift_alpha: Annotated[float, Field(ge=1e-9, lt=1)] = _knob(0.01, "drift_alpha")
    """Probability that a target whose parts never change ever raises the drift alarm; for streams that begin now."""
    drift_seed: Annotated[int, Field(ge=0, lt=2**31)] = _knob(0, "drift_seed")
    """Seed of the random ranks of equal scores; for streams that begin now."""
    legacy_backbone: str | None = _knob(None, "legacy_backbone")
    """Backbone that made the legacy banks in this data root; unset, they are shown but give no verdict."""
    max_image_bytes: Annotated[int, Field(ge=1)] = _knob(32 * 1024 * 1024, "max_image_bytes")
    """Largest image file accepted, in bytes."""
    max_image_pixels: Annotated[int, Field(ge=1)] = _knob(64_000_000, "max_image_pixels")
    """Largest decoded image accepted, in pixels."""
    token_cache_bytes: Annotated[int, Field(ge=0)] = _knob(4 * 1024**3, "token_cache_bytes")
    """Disk that the patch tokens of stored photographs may take, so that none is embedded twice; 0 keeps none."""
    max_images: Annotated[int, Field(ge=1)] = _knob(5000, "max_images")
    """Most images in one request or archive."""
    request_timeout_s: Positive = _knob(30.0, "request_timeout_s")
    """Budget of one inspection's feature call, in seconds."""
    fit_timeout_s: Positive = _knob(600.0, "fit_timeout_s")
    """Budget of one feature call while fitting or calibrating, in seconds."""
    max_inflight: Annotated[int, Field(ge=1)] = _knob(64, "max_inflight")
    """Inspections admitted at once per process; more answer 429."""
    max_waiting_fits: Annotated[int, Field(ge=0)] = _knob(32, "max_waiting_fits")
    """Fits that may wait for their turn per process; more answer 429."""
    threads: Annotated[int, Field(ge=0, le=1024)] = _knob(0, "threads")
    """Numerics threads per process; 0 shares the cores evenly among the workers."""
    api_key: Annotated[SecretStr, AfterValidator(_not_blank)] | None = _knob(
        None, "api_key", "BACKEND_API_KEY"
    )
    """Key that callers must send as `X-API-Key` or `Authorization: Bearer`. Unset, there is no authentication."""
    cors_origins: str = _knob("*", "cors_origins")
    """Comma-separated origins that browsers may call from."""
    enable_metrics: bool = _knob(False, "enable_metrics", "ENABLE_METRICS")
    """Serve Prometheus metrics at `/metrics`."""
    debug: bool = _knob(False, "debug")
    """Add the trace to the body of a 500."""
    light_import: bool = _knob(False, "light_import")
    """Import the feature adapter (onnxruntime, or gRPC for Triton) and Numba at their first use, not at start-up."""
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)] = _knob(
        "info", "log_level"
    )
    """Least severe log line that is written."""

    @model_validator(mode="after")
    def _options_fit_together(self) -> Settings:
        try:
            _ = self.memory_options
        except InvalidInput as error:
            raise ValueError(error.message) from error
        return self

    @property
    def memory_options(self) -> MemoryOptions:
        """What a new bank is made by, unless its fit asks for something else."""
        return choose_options(
            MemoryOptions(),
            augmentation=self.augmentation,
            foreground=self.foreground,
            tile_px=self.tile_px,
            tile_overlap_px=self.tile_overlap_px,
            score_rule=self.score_rule,
        )

    @property
    def recipes_root(self) -> Path:
        """The folder that holds `recipes/`."""
        return self.data_root / self.models_dir

    def as_environment(self) -> dict[str, str]:
        """Give the same settings as environment variables, for worker processes."""
        environment = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if value is not None:
                text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
                environment[f"BDI_{name.upper()}"] = text
        return environment

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Rank the sources: arguments, environment, YAML."""
        return init_settings, PublishedEnvironment(settings_cls), YamlSource(settings_cls)


class PublishedEnvironment(EnvSettingsSource):
    """Reads the published names only: a stray `DEBUG` or `THREADS` is somebody else's."""

    def __call__(self) -> dict[str, Any]:
        """Read the environment."""
        return {k: v for k, v in super().__call__().items() if k not in self.settings_cls.model_fields}


class YamlSource(PydanticBaseSettingsSource):
    """Reads `BDI_CONFIG`, else the first of the published places that exists; keys are field names in any case."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Unused: the file is read as a whole."""
        raise NotImplementedError

    def __call__(self) -> dict[str, Any]:
        """Read the file.

        Raises SettingsError where it is named but missing, or not a mapping of known settings.
        """
        named = os.environ.get("BDI_CONFIG")
        path = Path(named) if named else next((p for p in map(Path, YAML_PLACES) if p.is_file()), None)
        if path is None:
            return {}
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except (OSError, yaml.YAMLError) as error:
            raise SettingsError(f"{path}: cannot be read as YAML: {error}") from error
        if not isinstance(content, dict):
            raise SettingsError(f"{path}: must hold a mapping of settings to values.")
        return {_field_name(str(key), self.settings_cls, path): value for key, value in content.items()}


def _field_name(key: str, settings_cls: type[BaseSettings], path: Path) -> str:
    lowered = key.lower()
    for name, field in settings_cls.model_fields.items():
        aliases = field.validation_alias
        choices = aliases.choices if isinstance(aliases, AliasChoices) else []
        if lowered == name or lowered in {str(choice).lower() for choice in choices}:
            return name
    raise SettingsError(f"{path}: {key!r} is no setting; see the table in README.md.")


def load_settings(**overrides: Any) -> Settings:
    """Read the settings.

    Raises SettingsError with one sentence per wrong value.
    """
    try:
        return Settings(**overrides)
    except ValidationError as error:
        # What concerns several settings together names them itself.
        lines = [": ".join([*map(str, e["loc"]), e["msg"]]) for e in error.errors()]
        raise SettingsError("; ".join(lines)) from error
