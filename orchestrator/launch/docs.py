"""Keeps the generated parts of documents true."""

from __future__ import annotations

from pydantic import AliasChoices

from orchestrator.errors import InvalidInput
from orchestrator.settings import Settings


def replace_between_marks(text: str, name: str, content: str) -> str:
    """Put content between `<!-- name -->` and `<!-- /name -->`.

    Raises InvalidInput where the marks are not there.
    """
    opening, closing = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    before, found, rest = text.partition(opening)
    _, ended, after = rest.partition(closing)
    if not found or not ended:
        raise InvalidInput(f"the document has no marks {opening.strip()} ... {closing}")
    return f"{before}{opening}{content}{closing}{after}"


def settings_table() -> str:
    """Give the README's table of settings, in Markdown."""
    lines = ["| Variable | Also | Default | What |", "|---|---|---|---|"]
    for field in Settings.model_fields.values():
        aliases = field.validation_alias
        choices = [str(c) for c in aliases.choices] if isinstance(aliases, AliasChoices) else []
        others = ", ".join(f"`{c}`" for c in choices[1:] if not c.startswith("BRAKEDISC_"))
        default = "" if field.default is None else f"`{field.default}`"
        lines.append(f"| `{choices[0]}` | {others} | {default} | {field.description} |")
    return "\n".join(lines) + "\n"
