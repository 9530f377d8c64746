"""What an export can refuse, and the exit code a caller's script sees; prints nothing."""

from __future__ import annotations


class ExportError(Exception):
    """Base of every refusal; its text is one sentence for the person at the terminal."""

    exit_code = 1


class ParityRefused(ExportError):
    """The exported graph does not compute what its source computes."""

    exit_code = 1


class VersionCorrupt(ExportError):
    """A stored version is not what its manifest says."""

    exit_code = 1


class BadInput(ExportError):
    """An option, a weights file or a foreign graph cannot be used."""

    exit_code = 2


class HubUnreachable(ExportError):
    """The weights hub does not answer and the file is not in its cache."""

    exit_code = 3
