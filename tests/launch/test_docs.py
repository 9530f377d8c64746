from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import InvalidInput
from orchestrator.launch.docs import replace_between_marks, settings_table

ROOT = Path(__file__).parents[2]


def test_content_between_the_marks_is_replaced() -> None:
    text = "a\n<!-- x -->\nold\n<!-- /x -->\nb\n"
    assert replace_between_marks(text, "x", "new\n") == "a\n<!-- x -->\nnew\n<!-- /x -->\nb\n"


def test_missing_marks_are_refused() -> None:
    with pytest.raises(InvalidInput, match="no marks"):
        replace_between_marks("text", "x", "new")


def test_the_readme_s_settings_table_is_the_generated_one() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert replace_between_marks(text, "settings", settings_table()) == text


def test_the_readme_stays_under_250_lines() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 250
