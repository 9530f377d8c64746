"""The `patchlight` command: parse, call one function, print."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from orchestrator import __version__
from orchestrator.errors import PatchlightError
from orchestrator.settings import Settings, load_settings

app = typer.Typer(
    help="Visual inspection on NVIDIA Triton.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
database = typer.Typer(help="The database's schema.", no_args_is_help=True)
app.add_typer(database, name="db")

BackboneOption = Annotated[str | None, typer.Option(help="Backbone to use; the data root's own by default.")]
RepositoryOption = Annotated[Path | None, typer.Option(help="Model repository.")]


def _settings(**options: Any) -> Settings:
    return load_settings(**{name: value for name, value in options.items() if value is not None})


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def main_options(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    """Visual inspection on NVIDIA Triton."""


@app.command()
def run(backbone: BackboneOption = None) -> None:
    """Do everything from an empty checkout to a served API with a demo in it."""
    from orchestrator.launch.newcomer import run as start

    start(_settings(backbone=backbone), _console())


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    workers: Annotated[int | None, typer.Option(help="API processes.")] = None,
    triton_url: Annotated[str | None, typer.Option(help="Triton's gRPC, host:port.")] = None,
) -> None:
    """Serve the API; features come from Triton where BDI_TRITON_URL is set, else from this process."""
    from orchestrator.launch.api import serve_api

    serve_api(_settings(backend_host=host, backend_port=port, workers=workers, triton_url=triton_url))


@app.command()
def triton(
    models: Annotated[list[str] | None, typer.Option("--model", help="What to load; all by default.")] = None,
    repository: RepositoryOption = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads of one execution; all cores by default.")
    ] = None,
) -> None:
    """Install and start a real Triton on this machine; it serves the model repository until Ctrl-C."""
    from orchestrator.launch.triton import serve_triton

    serve_triton(_settings(model_repository=repository), models or [], threads, _console())


@app.command()
def demo(
    images: Annotated[
        Path | None, typer.Option(help="Folder with good/ and bad/; drawn parts by default.")
    ] = None,
    backbone: BackboneOption = None,
) -> None:
    """Fit, calibrate and inspect drawn parts or a folder of your own, and say how well it went."""
    from orchestrator.launch.demo import demo_settings
    from orchestrator.launch.newcomer import demo as start
    from orchestrator.telemetry import configure_logging

    configure_logging("error")
    start(demo_settings(_settings(), backbone), images, _console())


@app.command()
def doctor() -> None:
    """Check this machine and say what to do; exit 1 where something is in the way."""
    from orchestrator.launch.doctor import examine

    table = Table("check", "", "found", "what to do")
    marks = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "bad": "[red]bad[/]"}
    findings = examine(_settings())
    for finding in findings:
        table.add_row(finding.name, marks[finding.state], finding.found, finding.remedy)
    _console().print(table)
    raise typer.Exit(any(finding.state == "bad" for finding in findings))


@app.command()
def openapi(
    output: Annotated[Path | None, typer.Option(help="File to write; standard output by default.")] = None,
) -> None:
    """Write the OpenAPI document."""
    from orchestrator.app import create_app

    # Defaults only: the document must not depend on who writes it.
    text = json.dumps(create_app(Settings.model_construct()).openapi(), indent=1, ensure_ascii=False) + "\n"
    if output is None:
        sys.stdout.write(text)
    else:
        output.write_text(text, encoding="utf-8")


@app.command("settings")
def settings_command(
    into: Annotated[
        Path | None, typer.Option(help="Markdown file to put it into, between its settings marks.")
    ] = None,
) -> None:
    """Write the table of settings, in Markdown."""
    from orchestrator.launch.docs import replace_between_marks, settings_table

    table = settings_table()
    if into is None:
        sys.stdout.write(table)
    else:
        into.write_text(
            replace_between_marks(into.read_text(encoding="utf-8"), "settings", table), encoding="utf-8"
        )


@app.command("import-legacy")
def import_legacy(
    source: Annotated[Path, typer.Option("--from", help="Another server's data root.")],
    recipe: Annotated[
        str, typer.Option(help="Recipe to import into, where the layout names none.")
    ] = "default",
    role: Annotated[str, typer.Option(help="Role, where the layout names none.")] = "Inspection",
    backbone: Annotated[
        str | None, typer.Option(help="Backbone that made the banks; must be in force.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would happen.")] = False,
) -> None:
    """Bring another generation's samples and banks into this data root."""
    from orchestrator.launch.legacy import import_from

    import_from(_settings(), source, recipe, role, backbone, _console(), dry_run=dry_run)


@database.command()
def current() -> None:
    """Say which revision the database is at."""
    from orchestrator.launch.database import current as describe

    typer.echo(describe(_settings()))


@database.command()
def upgrade() -> None:
    """Bring the database up to date; every start of the API does the same."""
    from orchestrator.launch.database import upgrade as migrate

    typer.echo(migrate(_settings()))


def _console() -> Console:
    console = Console()
    # A table in a log is not cut at 80 columns.
    return console if console.is_terminal else Console(width=140)


def main(entry: Callable[[], Any] = app) -> None:
    """Run the command; a refusal is one sentence and exit code 2."""
    try:
        entry()
    except PatchlightError as error:
        Console(stderr=True).print(
            f"patchlight: {error.message}", soft_wrap=True, markup=False, highlight=False
        )
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
