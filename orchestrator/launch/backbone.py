"""Which backbone a start on one machine uses, and its export where the repository lacks it.

The exporter runs as a process of its own: it brings torch, which the orchestrator never imports.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from orchestrator.domain.backbone import BackboneSpec
from orchestrator.errors import FeaturesUnavailable, InvalidInput, NotFound
from orchestrator.features.repository import ModelRepository
from orchestrator.settings import Settings
from orchestrator.storage.choice import BackboneChoice, ChoiceStore
from orchestrator.storage.files import FileStore

PRETRAINED = "dinov2_vits14"
FALLBACK = "scattering"
HUB_UNREACHABLE = 3
"""The exporter's exit code for it."""

WEIGHTS_PLACES = tuple(Path("weights") / f"{PRETRAINED}{suffix}" for suffix in (".safetensors", ".pth"))
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Prepared:
    """The backbone to serve.

    reason: why not the preferred one. advice: how to change it. Both only where there is something to say.
    """

    spec: BackboneSpec
    reason: str | None
    advice: str | None


def prepare_backbone(settings: Settings, say: Say) -> Prepared:
    """Find or export the backbone of a data root.

    A data root keeps its backbone unless the settings name another one. A new one gets DINOv2 where its weights can
    be had, by file or from the hub, and else the training-free fallback, which says so.

    Raises FeaturesUnavailable, InvalidInput where the export is refused.
    """
    repository = ModelRepository(settings.model_repository)
    choice = ChoiceStore(FileStore(settings.data_root)).read()
    if settings.backbone is not None and (choice is None or choice.name != settings.backbone):
        return Prepared(_ensure(settings, repository, settings.backbone, None, say), None, None)
    if choice is not None:
        spec = _ensure_choice(settings, repository, choice, say)
        return Prepared(spec, choice.reason, _advice(choice.name))
    return _first(settings, repository, say)


def weights_file(settings: Settings) -> Path | None:
    """Give the local DINOv2 checkpoint: the one that is set, or one at its usual place."""
    if settings.weights is not None:
        return settings.weights
    return next((place for place in WEIGHTS_PLACES if place.is_file()), None)


def _first(settings: Settings, repository: ModelRepository, say: Say) -> Prepared:
    existing = _spec(repository, PRETRAINED)
    if existing is not None and existing.weights_source in ("pretrained", "file"):
        return Prepared(existing, None, None)
    local = weights_file(settings)
    if local is None:
        say(f"New data root: looking for pretrained {PRETRAINED} on the hub (5 s at most) ...")
    code, message = _export(settings, PRETRAINED, str(local) if local else "pretrained", None)
    if code == 0:
        spec = _spec(ModelRepository(settings.model_repository), PRETRAINED)
        if spec is not None:
            return Prepared(spec, None, None)
    if code != HUB_UNREACHABLE:
        raise InvalidInput(f"{PRETRAINED} could not be exported: {message}")
    reason = (
        f"the weights hub could not be reached, so {PRETRAINED} could not be had: "
        f"this is the training-free '{FALLBACK}' backbone"
    )
    say(f"*** {reason}. ***\n{message}")
    spec = _spec(repository, FALLBACK) or _export_or_raise(settings, FALLBACK, "pretrained", reason, say)
    return Prepared(spec, reason, _advice(FALLBACK))


def _ensure(
    settings: Settings, repository: ModelRepository, name: str, reason: str | None, say: Say
) -> BackboneSpec:
    spec = _spec(repository, name)
    if spec is not None:
        return spec
    local = weights_file(settings) if name == PRETRAINED else None
    return _export_or_raise(settings, name, str(local) if local else "pretrained", reason, say)


def _ensure_choice(
    settings: Settings, repository: ModelRepository, choice: BackboneChoice, say: Say
) -> BackboneSpec:
    spec = repository.find(choice.fingerprint)
    if spec is not None:
        return spec
    say(f"{choice.name} is not in {settings.model_repository}; exporting it again ...")
    spec = _ensure(settings, repository, choice.name, choice.reason, say)
    if spec.fingerprint != choice.fingerprint:
        raise FeaturesUnavailable(
            f"this data root was fitted with {choice.name}/{choice.version}@{choice.fingerprint[:12]}, but the "
            f"repository holds {spec.label}. Bring that version back into {settings.model_repository}, or start "
            "with a new BACKEND_DATA_ROOT and fit again."
        )
    return spec


def _advice(name: str) -> str | None:
    if name == PRETRAINED:
        return None
    return (
        f"This data root uses '{name}'. To change it: make run BACKBONE={PRETRAINED} (needs the hub, or a "
        f"checkpoint at {WEIGHTS_PLACES[0]}); fitted memories must then be fitted again."
    )


def _spec(repository: ModelRepository, name: str) -> BackboneSpec | None:
    try:
        return repository.trusted(name)
    except NotFound:
        return None


def _export_or_raise(
    settings: Settings, name: str, weights: str, reason: str | None, say: Say
) -> BackboneSpec:
    say(f"Exporting {name} ...")
    code, message = _export(settings, name, weights, reason)
    if code != 0:
        raise FeaturesUnavailable(f"{name} could not be exported: {message}")
    return ModelRepository(settings.model_repository).trusted(name)


def _export(settings: Settings, name: str, weights: str, reason: str | None) -> tuple[int, str]:
    command = [sys.executable, "-m", "export", "onnx", "--backbone", name, "--weights", weights]
    command += ["--repository", str(settings.model_repository)]
    command += ["--reason", reason] if reason else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return done.returncode, lines[-1] if lines else f"exit code {done.returncode}"
