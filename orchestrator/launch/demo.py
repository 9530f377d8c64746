"""Where a demo keeps its data: the line's data root, unless it asks for another backbone than that one's."""

from __future__ import annotations

from pathlib import Path

from orchestrator.settings import Settings
from orchestrator.storage.choice import ChoiceStore
from orchestrator.storage.files import FileStore

SCRATCH = Path(".cache/demo")


def demo_settings(settings: Settings, backbone: str | None) -> Settings:
    """Point a demo at its data root: a data root keeps its backbone, so another backbone gets one of its own."""
    if backbone is None:
        return settings
    choice = ChoiceStore(FileStore(settings.data_root)).read()
    if choice is not None and choice.name == backbone:
        return settings.model_copy(update={"backbone": backbone})
    return settings.model_copy(
        update={"backbone": backbone, "data_root": SCRATCH / backbone, "models_dir": Path(".")}
    )
