"""Find the shared library of this Python, which Triton's Python stub embeds.

Knows sysconfig, ldconfig and Debian's package name; knows nothing of Triton.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import FeaturesUnavailable


@dataclass(frozen=True, slots=True)
class Libpython:
    """A shared Python library.

    interpreter: the executable of the same installation; an embedded Python finds its standard library
    beside it.
    """

    library: Path
    interpreter: Path


def find_libpython(*, may_install: bool = True) -> Libpython:
    """Find libpython of this minor version; as root on Debian, install it where it is missing.

    Raises FeaturesUnavailable with the command to run.
    """
    found = _search()
    package = f"libpython{_minor()}"
    if found is None and may_install and os.geteuid() == 0 and shutil.which("apt-get"):
        _apt_install(package)
        found = _search()
    if found is None:
        raise FeaturesUnavailable(
            f"Triton's Python stub needs {_soname()}, which this Python does not bring: "
            f"run `apt-get install {package}`, or use a Python built with --enable-shared"
        )
    return found


def _minor() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _soname() -> str:
    return f"libpython{_minor()}.so.1.0"


def _search() -> Libpython | None:
    own = Path(sys.base_prefix)
    interpreter = own / "bin" / f"python{_minor()}"
    for folder in (Path(sysconfig.get_config_var("LIBDIR") or own / "lib"), own / "lib"):
        # LIBDIR is the path of the build machine in relocated builds, so it may name another tree altogether.
        if (folder / _soname()).is_file() and interpreter.is_file():
            return Libpython(folder / _soname(), interpreter)
    library = _system_library()
    if library is None:
        return None
    system = Path("/usr/bin") / f"python{_minor()}"
    return Libpython(library, system if system.is_file() else interpreter)


def _system_library() -> Path | None:
    ldconfig = shutil.which("ldconfig") or "/sbin/ldconfig"
    if Path(ldconfig).is_file():
        listing = subprocess.run([ldconfig, "-p"], capture_output=True, text=True, check=False).stdout
        for line in listing.splitlines():
            name, _, path = line.strip().partition(" ")
            if name == _soname() and "x86-64" in path:
                return Path(path.rpartition("=> ")[2])
    debian = Path("/usr/lib/x86_64-linux-gnu") / _soname()
    return debian if debian.is_file() else None


_APT_PATIENCE = ("-o", "Acquire::Retries=0", "-o", "Acquire::http::Timeout=15")


def _apt_install(package: str) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (
        ["apt-get", *_APT_PATIENCE, "update", "-qq"],
        ["apt-get", *_APT_PATIENCE, "install", "-y", "-qq", "--no-install-recommends", package],
    ):
        # A failure shows as a library still missing; the caller names the remedy then.
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(command, env=environment, capture_output=True, check=False, timeout=120)
