"""Reads photographs out of an uploaded zip, one at a time and within limits; extracts nothing to disk."""

from __future__ import annotations

import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from orchestrator.domain.samples import is_image_name
from orchestrator.errors import InvalidImage, InvalidInput, PatchlightError, TooLarge

_CHUNK = 1 << 16
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    OSError,
    EOFError,
    ValueError,
    OverflowError,
    # An encrypted entry, and a compression of a later format.
    RuntimeError,
    NotImplementedError,
)


class Archive:
    """A zip of photographs at any depth; `__MACOSX` and `._*` are skipped.

    Raises InvalidInput where it is no zip, holds no image, or more than max_images.
    """

    def __init__(self, file: BinaryIO, *, max_images: int, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        try:
            self._zip = zipfile.ZipFile(file)
            self._entries = [entry for entry in self._zip.infolist() if _is_photograph(entry)]
        except _DAMAGED as error:
            raise InvalidInput(f"zip_file: is no zip archive that can be read ({error}).") from error
        if not self._entries:
            raise InvalidInput("zip_file: holds no image; pack PNG, JPEG, BMP, TIFF or WebP files.")
        if len(self._entries) > max_images:
            raise InvalidInput(
                f"zip_file: holds {len(self._entries)} images; at most {max_images} are accepted."
            )

    def __len__(self) -> int:
        """Count the photographs."""
        return len(self._entries)

    def read(self, start: int, stop: int) -> Iterator[tuple[str, bytes | PatchlightError]]:
        """Give (base name, bytes) of a slice of the photographs; a damaged entry gives its error instead."""
        for entry in self._entries[start:stop]:
            yield _base_name(entry), self._bytes(entry)

    def _bytes(self, entry: zipfile.ZipInfo) -> bytes | PatchlightError:
        name = _base_name(entry)
        data = bytearray()
        try:
            with self._zip.open(entry) as stream:
                # The header's size is the sender's claim: count what really comes out.
                while chunk := stream.read(_CHUNK):
                    data += chunk
                    if len(data) > self._max_bytes:
                        return TooLarge(f"{name}: is over {self._max_bytes} bytes once unpacked.")
        except _DAMAGED as error:
            return InvalidImage(f"{name}: cannot be unpacked ({error}).")
        return bytes(data)


def _is_photograph(entry: zipfile.ZipInfo) -> bool:
    parts = entry.filename.replace("\\", "/").split("/")
    name = parts[-1]
    return (
        not entry.is_dir() and "__MACOSX" not in parts and not name.startswith("._") and is_image_name(name)
    )


def _base_name(entry: zipfile.ZipInfo) -> str:
    return entry.filename.replace("\\", "/").rsplit("/", 1)[-1][:255]
