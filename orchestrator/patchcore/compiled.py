"""Compiles loops, and keeps what it compiled on disk where that can be done; knows no loop.

Numba's cache raises whatever its files make it raise: an index that was cut off, a disk without room, a folder that
went away. None of that may cost a search or a fit: what cannot be read is compiled anew and replaced, what cannot be
written is compiled by every process for itself.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import numba
from numba.core.caching import FunctionCache
from numba.extending import is_jitted

Function = TypeVar("Function", bound=Callable[..., Any])

# Unpickling damaged bytes raises nearly anything.
_UNUSABLE = (
    ArithmeticError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    OSError,
    pickle.PickleError,
    RuntimeError,
    TypeError,
    ValueError,
)


def compiled(function: Function, signature: Any = None, **options: Any) -> Function:
    """Compile a function, free of the interpreter's lock: at once for a signature, otherwise at its first call."""
    made: Any = numba.njit(nogil=True, **options)(function)
    if is_jitted(made):
        # Without a folder that it could be in there is none, as to begin with.
        with suppress(*_UNUSABLE):
            made._cache = _ForgivingCache(FunctionCache(function))
        if signature is not None:
            made.compile(signature)
            made.disable_compile()
    result: Function = made
    return result


class _ForgivingCache:
    """Numba's cache of one function, of which a failure is a miss."""

    def __init__(self, cache: Any) -> None:
        self._cache = cache

    @property
    def cache_path(self) -> str:
        return str(self._cache.cache_path)

    def load_overload(self, signature: Any, target: Any) -> Any:
        try:
            return self._cache.load_overload(signature, target)
        except _UNUSABLE:
            # Emptied, so that the next process finds what this one compiles.
            self.flush()
            return None

    def save_overload(self, signature: Any, result: Any) -> None:
        with suppress(*_UNUSABLE):
            self._cache.save_overload(signature, result)

    def enable(self) -> None:
        self._cache.enable()

    def disable(self) -> None:
        self._cache.disable()

    def flush(self) -> None:
        with suppress(*_UNUSABLE):
            self._cache.flush()
