"""The command line of the exporter: parse, call one function, print. Refusals exit with their own code."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from export.errors import ExportError
from export.repository import DEFAULT_REPOSITORY, PublishedVersion

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

RepositoryOption = Annotated[Path, typer.Option(help="The model repository to write to or read from.")]
DeviceOption = Annotated[Literal["cpu", "gpu"], typer.Option(help="Where Triton runs the graph.")]
ReasonOption = Annotated[str | None, typer.Option(help="Why this backbone; kept verbatim in the manifest.")]
ForceNewOption = Annotated[
    bool, typer.Option("--force-new", help="Add a version even if an equal one exists.")
]


@app.command()
def onnx(
    backbone: Annotated[str, typer.Option(help="A row of export/backbones.py.")] = "dinov2_vits14",
    weights: Annotated[
        str, typer.Option(help="pretrained, random, or a .safetensors or .pth file.")
    ] = "pretrained",
    seed: Annotated[int, typer.Option(help="Seed of --weights random.")] = 0,
    repository: RepositoryOption = DEFAULT_REPOSITORY,
    device: DeviceOption = "cpu",
    reason: ReasonOption = None,
    force_new: ForceNewOption = False,
) -> None:
    """Export a backbone to ONNX and publish it."""
    from export.to_onnx import STAGES, export_backbone

    with _progress(len(STAGES)) as on_stage:
        published = export_backbone(
            backbone,
            weights=weights,
            seed=seed,
            repository=repository,
            device=device,
            reason=reason,
            force_new=force_new,
            on_stage=on_stage,
        )
    _print_version(published)


@app.command()
def verify(
    backbone: Annotated[str, typer.Option(help="The backbone's name in the repository.")],
    version: Annotated[int | None, typer.Option(help="Which version; the newest by default.")] = None,
    repository: RepositoryOption = DEFAULT_REPOSITORY,
    weights: Annotated[Path | None, typer.Option(help="Where the checkpoint lies now.")] = None,
    source: Annotated[
        Path | None, typer.Option("--onnx", help="Where an imported graph's source lies now.")
    ] = None,
) -> None:
    """Compare a published version with its source; exit 1 where it is out of tolerance."""
    from export.verify import STAGES, verify_version

    with _progress(len(STAGES)) as on_stage:
        parity = verify_version(
            repository, backbone, version=version, weights=weights, source=source, on_stage=on_stage
        )
    Console().print(
        f"{backbone}: max |Δ| {parity.max_abs_fp32:.1e} before the last cast, min token cosine "
        f"{parity.min_token_cosine:.7f} after it, {parity.images} images against {parity.reference}: "
        "in tolerance",
        soft_wrap=True,
    )


@app.command("import")
def import_(
    source: Annotated[Path, typer.Option("--onnx", help="A fixed-size feature graph with one image input.")],
    name: Annotated[str, typer.Option(help="Its name in the repository.")],
    input_size: Annotated[
        int | None, typer.Option(help="Side of the input, px, where the graph's is free.")
    ] = None,
    mean: Annotated[str | None, typer.Option(help="Three numbers, RGB; ImageNet's by default.")] = None,
    std: Annotated[str | None, typer.Option(help="Three numbers, RGB; ImageNet's by default.")] = None,
    scale: Annotated[
        float, typer.Option(help="What 0..255 is divided by before mean and std: 255 or 1.")
    ] = 255.0,
    output: Annotated[str | None, typer.Option(help="Which output, where the graph has several.")] = None,
    padding: Annotated[
        Literal["black", "edge", "reflect"], typer.Option(help="Fill of the letterbox.")
    ] = "black",
    repository: RepositoryOption = DEFAULT_REPOSITORY,
    device: DeviceOption = "cpu",
    reason: ReasonOption = None,
    force_new: ForceNewOption = False,
) -> None:
    """Wrap a third-party ONNX feature graph into the served contract and publish it."""
    from export.third_party import STAGES, ImportOptions, import_graph, parse_triple

    options = ImportOptions(
        input_side=input_size,
        mean=parse_triple("mean", mean),
        std=parse_triple("std", std),
        scale=scale,
        output=output,
        padding=padding,
    )
    with _progress(len(STAGES)) as on_stage:
        published = import_graph(
            source,
            name,
            options,
            repository=repository,
            device=device,
            reason=reason,
            force_new=force_new,
            on_stage=on_stage,
        )
    _print_version(published)


@contextmanager
def _progress(stages: int) -> Iterator[Callable[[str], None]]:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    # In a log, the bar would be a blank line before the sentence that matters.
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("starting", total=stages + 1)

        def on_stage(stage: str) -> None:
            progress.update(task, description=stage, advance=1)

        yield on_stage


def _print_version(published: PublishedVersion) -> None:
    manifest = published.manifest
    weights, parity = manifest["weights"], manifest["parity"]
    origin = (
        weights["hub_id"]
        or weights["file"]
        or (f"seed {weights['seed']}" if weights["seed"] is not None else "")
    )
    table = Table(show_header=False, box=None)
    for row in (
        ("name", manifest["name"]),
        (
            "version",
            f"{published.version}" + (" (the same features were there already)" if published.reused else ""),
        ),
        ("fingerprint", manifest["fingerprint"][:12]),
        ("input", f"{manifest['input']['name']} uint8 {_shape(manifest['input']['shape'])}"),
        ("tokens", f"{manifest['output']['name']} float16 {_shape(manifest['output']['shape'])}"),
        ("weights", f"{weights['source']} {origin}".strip()),
        ("reason", manifest["reason"] or "-"),
        (
            "parity",
            f"max |Δ| {parity['max_abs_fp32']:.1e}, min token cosine {parity['min_token_cosine']:.7f}",
        ),
        ("path", str(published.directory)),
    ):
        table.add_row(*row)
    Console(soft_wrap=True).print(table)


def _shape(shape: list[int | str]) -> str:
    return "(" + ", ".join(str(axis) for axis in shape) + ")"


def main() -> None:
    """Run the command line."""
    try:
        app()
    except ExportError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
