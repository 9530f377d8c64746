"""Stored photographs: labels, names and what a sidecar says; no I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from orchestrator.errors import InvalidInput

Label = Literal["ok", "ng"]
LABELS: tuple[Label, ...] = ("ok", "ng")
EXTENSIONS = {"PNG": "png", "JPEG": "jpg", "BMP": "bmp", "TIFF": "tif", "WEBP": "webp"}
"""Decoder format -> extension by content."""

MEDIA_TYPES = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "bmp": "image/bmp",
    "tif": "image/tiff",
    "tiff": "image/tiff",
    "webp": "image/webp",
}

_OWN_NAME = re.compile(r"(?:OK|NG)_\d{8}_\d{9}_([0-9a-f]{8})\.[a-z]+")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,127}")


@dataclass(frozen=True, slots=True)
class NewSample:
    """Bytes to be stored, already known to decode.

    image_format: the decoder's name for it ("PNG"). meta: what the client sent beside it.
    """

    data: bytes
    sha256: str
    image_format: str
    meta: Mapping[str, Any]
    filename: str | None = None


@dataclass(frozen=True, slots=True)
class StoredSample:
    """A stored photograph by its immutable name. added: false where the same bytes were known before."""

    name: str
    label: Label
    sha256: str
    added: bool = True


def parse_label(value: str) -> Label:
    """Read a label in any case.

    Raises InvalidInput.
    """
    match value.strip().lower():
        case "ok":
            return "ok"
        case "ng":
            return "ng"
        case _:
            raise InvalidInput(f"label: {value[:40]!r} is unknown; send 'ok' or 'ng'.")


def sample_name(label: Label, when: datetime, sha256: str, image_format: str) -> str:
    """Give the immutable name `OK_YYYYMMDD_HHMMSSmmm_<digest8>.<ext>` (UTC)."""
    stamp = when.strftime("%Y%m%d_%H%M%S") + f"{when.microsecond // 1000:03d}"
    return f"{label.upper()}_{stamp}_{sha256[:8]}.{EXTENSIONS[image_format]}"


def may_hold(name: str, sha256: str) -> bool:
    """Tell whether a photograph of that name can be the one of that digest: a foreign name says nothing of it."""
    own = _OWN_NAME.fullmatch(name)
    return own is None or own[1] == sha256[:8]


def is_image_name(name: str) -> bool:
    """Tell whether a stored file is a photograph, by its extension."""
    return "." in name and name.rsplit(".", 1)[1].lower() in MEDIA_TYPES and not name.startswith(".")


def safe_name(filename: str) -> str | None:
    """Reduce a client's file name to a base name that can exist in a dataset; None where none can."""
    name = filename.replace("\\", "/").rsplit("/", 1)[-1]
    return name if _NAME.fullmatch(name) else None


def sidecar_name(name: str) -> str:
    """Name the sidecar of a photograph: the same stem, `.json`."""
    return name.rsplit(".", 1)[0] + ".json"


def sample_shape(meta: Mapping[str, Any]) -> object:
    """Give the stored ROI of a sample: its `shape_json` (text or object), or None."""
    return meta.get("shape_json")
