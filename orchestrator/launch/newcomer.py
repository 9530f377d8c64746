"""`make run`: everything from an empty checkout to a served API with a demo in it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from orchestrator.demo.defects import DefectKind
from orchestrator.demo.drawing import draw_set, part_roi
from orchestrator.demo.photographs import Photograph, PhotographFolder, read_folder, write_drawn_set
from orchestrator.demo.report import print_report
from orchestrator.demo.run import MM_PER_PX, RECIPE, ROLE, DemoReport, demo_target, run_demo
from orchestrator.domain.backbone import BackboneSpec
from orchestrator.errors import FeaturesUnavailable, InvalidInput, StoreCorrupt
from orchestrator.features.repository import ModelRepository
from orchestrator.launch.api import port_fault, serve_api
from orchestrator.launch.backbone import Prepared, prepare_backbone
from orchestrator.runtime import build_runtime
from orchestrator.services.backbones import Backbones
from orchestrator.settings import Settings
from orchestrator.storage.banks import BankStore
from orchestrator.storage.calibrations import CalibrationStore
from orchestrator.storage.choice import ChoiceStore
from orchestrator.storage.files import FileStore
from orchestrator.telemetry import configure_logging
from orchestrator.twin.process import TritonServer
from orchestrator.twin.serving import INSTANCES, serve_repository

DEMO_SEED = 0
TRITON_START_S = 240.0
"""Warm-up runs every served version at batch 1 and 8: minutes for a large backbone on a small machine."""

DRAWN = "drawn"
"""The drawn parts' ROI id."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What is running: settings that point at it, and the Triton that was started, if one was."""

    settings: Settings
    prepared: Prepared
    triton: TritonServer | None


def run(settings: Settings, console: Console) -> None:
    """Prepare, demonstrate where the store is empty, then serve until SIGINT or SIGTERM."""
    configure_logging(settings.log_level)
    check_port(settings)
    with _terminable(), started(settings, console) as machine:
        examples: tuple[Photograph, Photograph] | None = None
        if wants_demo(machine.settings, machine.prepared.spec):
            examples = _examples(demonstrate_drawn(machine, console))
        _warn(machine, console)
        serve_api(machine.settings, lambda url: _announce(url, machine, examples, console))


def demo(settings: Settings, images: Path | None, console: Console) -> DemoReport:
    """Run the demo on drawn parts, or on a folder of photographs, and stop."""
    with _terminable(), started(settings, console) as machine:
        if images is None:
            report = demonstrate_drawn(machine, console)
        else:
            title = f"Patchlight: {images.resolve().name}"
            report = demonstrate(machine, read_folder(images), console, title=title)
        _warn(machine, console)
        return report


@contextlib.contextmanager
def started(settings: Settings, console: Console) -> Iterator[Machine]:
    """Have a backbone and, unless one is named in the settings, a Triton of our own; stop it at the end."""
    prepared = prepare_backbone(settings, lambda text: console.print(text, soft_wrap=True))
    chosen = settings.model_copy(update={"backbone": prepared.spec.name})
    settle(chosen, prepared)
    if settings.triton_url is not None:
        yield Machine(chosen, prepared, None)
        return
    try:
        console.print("Starting Triton ...")
        cores = len(os.sched_getaffinity(0))
        triton = serve_repository(
            settings.model_repository,
            [prepared.spec.name],
            triton_home=settings.triton_home,
            threads=cores,
            instances=INSTANCES,
            start_timeout_s=TRITON_START_S,
        )
    except FeaturesUnavailable as error:
        console.print(
            f"*** Triton cannot run here: {error.message} Features are computed in process instead. ***"
        )
        yield Machine(chosen, prepared, None)
        return
    with triton:
        console.print(f"Triton serves {prepared.spec.label} on {triton.grpc_url}")
        yield Machine(chosen.model_copy(update={"triton_url": triton.grpc_url}), prepared, triton)


def wants_demo(settings: Settings, spec: BackboneSpec) -> bool:
    """Say whether nothing was ever fitted here, or the drawn demo stands half-done or with another backbone."""
    if not any((settings.recipes_root / "recipes").glob("*/*/*.npz")):
        return True
    store, target = FileStore(settings.recipes_root), demo_target(DRAWN)
    banks = BankStore(store)
    if banks.etag(target) is None:
        return False
    try:
        stale = banks.read(target).metadata.fingerprint != spec.fingerprint
    except StoreCorrupt:
        # The demo's own bank is made anew; it must not keep the line's from being served.
        return True
    return stale or CalibrationStore(store).read(target) is None


def drawn_folder(settings: Settings, console: Console) -> PhotographFolder:
    """Draw the demo's photographs once, as real files."""
    root = settings.data_root / "demo" / "ring"
    if root.is_dir():
        return read_folder(root)
    console.print("Drawing the demo's photographs ...")
    staged = root.with_name(f".ring-{os.getpid()}")
    try:
        write_drawn_set(draw_set(DEMO_SEED), staged)
        # Whole or not at all: an interrupted start must not leave half a set for the next one.
        staged.rename(root)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return read_folder(root)


def demonstrate_drawn(machine: Machine, console: Console) -> DemoReport:
    """Run the demo on the drawn parts, inside their ROI."""
    folder = drawn_folder(machine.settings, console)
    return demonstrate(machine, folder, console, title="Patchlight demo", name=DRAWN, roi=part_roi())


def demonstrate(
    machine: Machine,
    folder: PhotographFolder,
    console: Console,
    *,
    title: str,
    name: str | None = None,
    roi: dict[str, Any] | None = None,
) -> DemoReport:
    """Run the demo in this process, with a progress bar, and print its report.

    name: of the target's ROI, the folder's own name by default. roi: a shape that masks every photograph.
    """
    target = demo_target(name or folder.root.resolve().name)
    sheet = machine.settings.data_root / "demo" / f"{target.part.roi_id}-{machine.prepared.spec.name}.png"

    async def work(progress: Callable[[str, float], None]) -> DemoReport:
        runtime = build_runtime(machine.settings)
        try:
            return await run_demo(runtime, target, folder, sheet, progress, title=title, roi=roi)
        finally:
            await runtime.close()

    columns = (TextColumn("{task.description:<10}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        tasks = {stage: bars.add_task(stage, total=1.0) for stage in ("fit", "calibrate", "inspect", "draw")}
        report = asyncio.run(work(lambda stage, share: bars.update(tasks[stage], completed=share)))
    print_report(report, console)
    return report


def _examples(report: DemoReport) -> tuple[Photograph, Photograph]:
    good = next(j for j in report.judged if j.truth == "good")
    bad = max((j for j in report.judged if j.truth == "bad"), key=lambda j: j.verdict.score)
    return good.photograph, bad.photograph


def _warn(machine: Machine, console: Console) -> None:
    prepared = machine.prepared
    if prepared.reason:
        console.print(f"*** {prepared.spec.name}: {prepared.reason}. ***", soft_wrap=True)
    if machine.prepared.advice:
        console.print(machine.prepared.advice, soft_wrap=True)


def _announce(
    url: str, machine: Machine, examples: tuple[Photograph, Photograph] | None, console: Console
) -> None:
    console.print(
        f"\nPatchlight answers on {url} (documentation: {url}/docs). Ctrl-C ends it.", soft_wrap=True
    )
    key = ' -H "X-API-Key: ${BDI_API_KEY:-$BACKEND_API_KEY}"' if machine.settings.api_key else ""
    lines = [f"curl -s {url}/health"]
    found = examples or _stored_examples(machine.settings)
    if found is not None:
        fields = f"-F role_id={ROLE} -F roi_id={DRAWN} -F mm_per_px={MM_PER_PX} -F recipe_id={RECIPE}"
        fields += f" -F include_heatmap=false -F 'shape={json.dumps(part_roi())}'"
        lines = [
            f"curl -s{key} {fields} -F {shlex.quote(f'image=@{p.path.resolve()}')} {url}/infer" for p in found
        ]
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _stored_examples(settings: Settings) -> tuple[Photograph, Photograph] | None:
    root = settings.data_root / "demo" / "ring"
    if not root.is_dir() or not any((settings.recipes_root / "recipes" / RECIPE / DRAWN).glob("*.npz")):
        return None
    with contextlib.suppress(InvalidInput):
        folder = read_folder(root)
        bad = next((p for p in folder.bad if p.kind == DefectKind.MISSING_HOLE), folder.bad[0])
        return folder.good_test[0], bad
    return None


def settle(settings: Settings, prepared: Prepared) -> None:
    """Record the data root's choice before anything is served, with the reason for it."""
    repository = ModelRepository(settings.model_repository)
    choices = ChoiceStore(FileStore(settings.data_root))
    Backbones(repository, choices, wanted=prepared.spec.name, legacy=None).settle(prepared.reason)


def check_port(settings: Settings) -> None:
    """Refuse at once what would be refused after minutes of preparation.

    Raises InvalidInput where another program holds the API's port.
    """
    fault = port_fault(settings)
    if fault is not None:
        raise InvalidInput(
            f"{settings.backend_host}:{settings.backend_port} cannot be listened on ({fault}); end what holds it, or "
            "choose another with BDI_BACKEND_PORT."
        )


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    # Before the API's own handlers are in place, SIGTERM must unwind like Ctrl-C, or Triton would be left behind.
    def leave(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    previous = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
