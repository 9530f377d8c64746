from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping

import pytest

from orchestrator.errors import InvalidImage, InvalidInput, PatchlightError, TooLarge
from orchestrator.services.archive import Archive


def packed(entries: Mapping[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def opened(data: bytes, max_images: int = 10, max_bytes: int = 1000) -> Archive:
    return Archive(io.BytesIO(data), max_images=max_images, max_bytes=max_bytes)


def entries_of(data: bytes) -> dict[str, bytes | PatchlightError]:
    archive = opened(data)
    return dict(archive.read(0, len(archive)))


def test_photographs_at_any_depth_go_by_their_base_name() -> None:
    names = [
        "a.png",
        "x/y/b.JPG",
        "x\\c.tiff",
        "x/.hidden.png",
        "__MACOSX/a.png",
        "x/._d.png",
        "e.txt",
        "f.png/",
    ]
    assert list(entries_of(packed(dict.fromkeys(names, b"1")))) == ["a.png", "b.JPG", "c.tiff"]


@pytest.mark.parametrize("data", [b"", b"PK", b"PK\x05\x06" + bytes(18), packed({"a.txt": b""})])
def test_what_holds_no_photograph_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput, match="zip_file"):
        opened(data)


def test_too_many_photographs_are_refused() -> None:
    data = packed({f"{i}.png": b"1" for i in range(11)})
    with pytest.raises(InvalidInput, match=r"11.*at most 10"):
        opened(data)


def test_an_entry_that_unpacks_beyond_the_limit_fails_alone() -> None:
    found = entries_of(packed({"bomb.png": bytes(50_000_000), "b.png": b"fine"}))
    assert isinstance(found["bomb.png"], TooLarge)
    assert found["b.png"] == b"fine"


@pytest.mark.parametrize(
    "compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
def test_a_damaged_entry_fails_alone(compression: int) -> None:
    data = bytearray(packed({"a.png": bytes(range(200)), "b.png": b"fine"}, compression))
    start = data.index(b"a.png") + 5
    data[start + 50 : start + 90] = bytes(byte ^ 0x5A for byte in data[start + 50 : start + 90])
    found = entries_of(bytes(data))
    assert isinstance(found["a.png"], InvalidImage)
    assert found["b.png"] == b"fine"


def test_an_encrypted_entry_fails_alone() -> None:
    data = bytearray(packed({"a.png": b"1", "b.png": b"fine"}))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    found = entries_of(bytes(data))
    assert isinstance(found["a.png"], InvalidImage)
    assert found["b.png"] == b"fine"
