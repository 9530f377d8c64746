"""Moments as they are stored and sent: ISO 8601 in UTC, with a Z."""

from __future__ import annotations

from datetime import datetime
from typing import Literal


def utc_text(when: datetime, timespec: Literal["seconds", "milliseconds"] = "milliseconds") -> str:
    """Write a moment; when: in UTC."""
    return when.isoformat(timespec=timespec).replace("+00:00", "Z")
