"""The commands of README.md, as a person would paste them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]

NOT_RUN = (
    "make test",  # runs this very test
    "python -m export onnx --backbone dinov2_vits14",  # needs the weights hub
)
"""What no test can run: everything else in the README is run."""


def readme_commands() -> list[str]:
    """List the lines of the README's bash blocks, comments left out, in order."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]
