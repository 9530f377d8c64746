"""Keeps the generated parts of documents true."""

from __future__ import annotations

from orchestrator.errors import InvalidInput


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
