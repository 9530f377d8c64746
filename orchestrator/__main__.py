"""`python -m orchestrator` is the `patchlight` command."""

from __future__ import annotations

from orchestrator.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
