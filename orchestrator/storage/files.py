"""Artifacts as local files: atomic, durable, never half-written.

A write goes to a temporary file in the same folder, is fsynced, then renamed (or linked, where it must be the
first), and the folder is fsynced. Knows keys and bytes, not what they mean.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import NotFound, StoreUnavailable

LOCK_WAIT_S = 30.0
ETag = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file below a folder. used_ns: when it was last written or touched, ns since 1970."""

    key: str
    size: int
    used_ns: int


class FileStore:
    """Keys are slash-separated relative paths; names that begin with a dot are never listed."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, key: str) -> Path:
        """Give the file of a key."""
        return self.root / key

    def etag(self, key: str) -> ETag | None:
        """Give a value that changes with every write of the key; None where there is none."""
        try:
            stat = os.stat(self.path(key))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _unavailable(key, error) from error
        return stat.st_ino, stat.st_mtime_ns, stat.st_size

    def read(self, key: str) -> bytes:
        """Read a whole artifact.

        Raises NotFound, StoreUnavailable.
        """
        try:
            return self.path(key).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise NotFound(f"{key}: not found.") from error
        except OSError as error:
            raise _unavailable(key, error) from error

    def write(self, key: str, data: bytes, *, durable: bool = True) -> None:
        """Replace an artifact; readers see the old one or the new one.

        durable: whether it must outlive a loss of power; what can be made again need not.

        Raises StoreUnavailable.
        """
        with self._staged(key, data, durable=durable) as (staged, final):
            os.replace(staged, final)

    def move(self, key: str, to: str) -> None:
        """Give an artifact another name in its folder, in place of what bears it; needs no room on the disk.

        Raises NotFound, StoreUnavailable.
        """
        final = self.path(to)
        try:
            os.replace(self.path(key), final)
            _sync_folder(final.parent)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFound(f"{key}: not found.") from error
        except OSError as error:
            raise _unavailable(key, error) from error

    def touch(self, key: str) -> None:
        """Note that an artifact was used; nothing where it is gone."""
        with contextlib.suppress(OSError):
            os.utime(self.path(key))

    def create(self, key: str, data: bytes) -> bool:
        """Write an artifact that must not exist yet; false where it does.

        Raises StoreUnavailable.
        """
        with self._staged(key, data) as (staged, final):
            try:
                os.link(staged, final)
            except FileExistsError:
                return False
        return True

    def append(self, key: str, text: str) -> None:
        """Add to a log of lines; not durable, and not read back as truth.

        Raises StoreUnavailable.
        """
        try:
            with self.path(key).open("a", encoding="utf-8") as log:
                log.write(text)
        except OSError as error:
            raise _unavailable(key, error) from error

    def delete(self, key: str) -> bool:
        """Remove an artifact; false where there was none."""
        path = self.path(key)
        try:
            path.unlink()
            _sync_folder(path.parent)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise _unavailable(key, error) from error
        return True

    def names(self, prefix: str) -> list[str]:
        """List the file names directly below a folder key, sorted; empty where it does not exist."""
        try:
            with os.scandir(self.path(prefix)) as entries:
                return sorted(e.name for e in entries if not e.name.startswith(".") and e.is_file())
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise _unavailable(prefix, error) from error

    def folders(self, prefix: str) -> list[str]:
        """List the folder names directly below a folder key, sorted."""
        try:
            with os.scandir(self.path(prefix)) as entries:
                return sorted(e.name for e in entries if not e.name.startswith(".") and e.is_dir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise _unavailable(prefix, error) from error

    def entries(self, prefix: str) -> list[FileEntry]:
        """List every file below a folder key, what is being staged included; empty where it does not exist.

        Raises StoreUnavailable.
        """
        found: list[FileEntry] = []
        try:
            with os.scandir(self.path(prefix)) as scan:
                for entry in scan:
                    if entry.is_dir(follow_symlinks=False):
                        found += self.entries(f"{prefix}/{entry.name}")
                        continue
                    # Another process may have taken it away since.
                    with contextlib.suppress(FileNotFoundError):
                        stat = entry.stat(follow_symlinks=False)
                        found.append(FileEntry(f"{prefix}/{entry.name}", stat.st_size, stat.st_mtime_ns))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise _unavailable(prefix, error) from error
        return found

    def check(self) -> None:
        """Prove that the store can be written now.

        Raises StoreUnavailable.
        """
        key = f".check-{secrets.token_hex(6)}"
        self.write(key, b"ok")
        self.delete(key)

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Exclude other writers of `name` on this machine, for the few milliseconds of a commit.

        The kernel releases it with the process. It orders writers only; readers never need it.

        Raises StoreUnavailable after 30 s.
        """
        # Folders stay folders: a flat name of two long identifiers and a recipe would not fit one file name.
        path = self.root / ".locks" / f"{name}.lock"
        deadline = time.monotonic() + LOCK_WAIT_S
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise _unavailable(name, error) from error
        try:
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if time.monotonic() > deadline:
                        raise StoreUnavailable(f"{name}: another writer holds it; try again.") from error
                    time.sleep(0.005)
                except OSError as error:
                    raise _unavailable(name, error) from error
            yield
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _staged(self, key: str, data: bytes, *, durable: bool = True) -> Iterator[tuple[Path, Path]]:
        final = self.path(key)
        staged = final.parent / f".{secrets.token_hex(8)}.tmp"
        try:
            _make_folder(final.parent)
            descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            yield staged, final
            if durable:
                _sync_folder(final.parent)
        except OSError as error:
            raise _unavailable(key, error) from error
        finally:
            with contextlib.suppress(OSError):
                staged.unlink()


def _unavailable(key: str, error: OSError) -> StoreUnavailable:
    # Without the path: a client has no use for the server's folders.
    reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or "input/output error"
    return StoreUnavailable(f"the store cannot be used: {key}: {reason}.")


def _make_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
