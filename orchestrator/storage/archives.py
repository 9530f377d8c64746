"""What NumPy's reader of `.npz` archives raises on bytes that are none, or only half of one."""

from __future__ import annotations

import struct
import zipfile
import zlib

DAMAGED = (
    KeyError,
    ValueError,
    TypeError,
    OSError,
    EOFError,
    RuntimeError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
