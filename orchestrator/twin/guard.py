"""The process between a program and its Triton: whatever ends the program ends Triton too.

Run as a script by `process.py`: `python guard.py PARENT_PID PREFIX RUN_DIR EXIT_TIMEOUT_S LOG --
tritonserver ...`. Prints Triton's pid, then waits. Triton is stopped when the parent is gone by any cause,
SIGKILL included, or when the guard gets SIGTERM; then its shared memory is removed. A parent-death signal
would not do: it is bound to the thread that started the child, and leaves the shared memory behind. Imports
the standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

_POLL_S = 0.2
_PR_SET_PDEATHSIG = 1
_SHM = Path("/dev/shm")  # noqa: S108 - where Triton's Python backend puts its regions; not a temporary file of ours


def main(arguments: list[str]) -> int:
    """Guard one Triton; returns its exit status."""
    parent, prefix, run_dir, exit_timeout_s, log, separator, *command = arguments
    if separator != "--":
        raise SystemExit("usage: guard.py PARENT_PID PREFIX RUN_DIR EXIT_TIMEOUT_S LOG -- COMMAND...")
    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received, _: stopping.append(received))
    with Path(log).open("ab") as output:
        triton = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            process_group=0,
            preexec_fn=_die_with_guard,
        )
    print(triton.pid, flush=True)
    while triton.poll() is None and not stopping and os.getppid() == int(parent):
        time.sleep(_POLL_S)
    orphaned = os.getppid() != int(parent)
    _end(triton, float(exit_timeout_s))
    remove_shared_memory(prefix)
    if orphaned:
        shutil.rmtree(run_dir, ignore_errors=True)
    return triton.returncode if triton.returncode >= 0 else 128 - triton.returncode


def remove_shared_memory(prefix: str) -> None:
    """Remove the regions of one server; Triton leaves them behind when it is killed."""
    for region in _SHM.glob(f"{prefix}*"):
        with contextlib.suppress(FileNotFoundError):
            region.unlink()


def _end(triton: subprocess.Popen[bytes], exit_timeout_s: float) -> None:
    for number in (signal.SIGTERM, signal.SIGCONT):  # a stopped process takes SIGTERM only once it goes on
        with contextlib.suppress(ProcessLookupError):
            if triton.poll() is None:
                os.kill(triton.pid, number)
    with contextlib.suppress(subprocess.TimeoutExpired):
        triton.wait(exit_timeout_s)
    with contextlib.suppress(ProcessLookupError):  # its stubs too, whether or not it went by itself
        os.killpg(triton.pid, signal.SIGKILL)
    triton.wait()


def _die_with_guard() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
