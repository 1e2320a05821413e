"""The compiler, and where what it made is kept.

numba looks for changes only in the file of the function that is called, not in those
that it calls; so what it made is kept in a folder named after all sources of this one.
"""

import contextlib
import ctypes
import hashlib
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

import numba
import numpy as np
import psutil
from numba.core.registry import CPUDispatcher
from numpy.typing import NDArray

F = TypeVar("F", bound=Callable[..., object])
T = TypeVar("T", bound=np.generic)

_HERE = Path(__file__).parent
_LEAN: dict[str, Any] = {"_nrt": False, "error_model": "numpy"}
#: No entry from C, which nothing takes and which takes as long to compile as what many do.
_FROM_PYTHON: dict[str, Any] = {"nogil": True, "no_cfunc_wrapper": True}
#: No entry from Python either: a call through it would end the process.
_FROM_KERNELS: dict[str, Any] = {
    "nopython": True,
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}


def _digest() -> str:
    digest = hashlib.sha256(numba.__version__.encode())
    for source in sorted(_HERE.glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def _cache_folder() -> Path | None:
    """The first that can be written to, if any can."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "playhead"
    wanted = os.environ.get("NUMBA_CACHE_DIR")
    for base in [Path(wanted)] if wanted else [_HERE / "__pycache__", caches]:
        folder = base / f"kernels-{_digest()}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    return None


_folder = _cache_folder()
if _folder is not None:
    numba.config.CACHE_DIR = str(_folder)  # type: ignore[attr-defined]


def kernel(function: F) -> F:
    """Compiles `function` when it is first called with arguments of some types.

    Indexes are not checked. It lets other threads run meanwhile.
    """
    is_kept = _folder is not None
    compiled: F = numba.njit(cache=is_kept, error_model="numpy", **_FROM_PYTHON)(function)
    return compiled


def lean_kernel(function: F) -> F:
    """As `kernel`, for what makes no array.

    References to arrays are not counted in it, which may take longer than what it does.
    """
    is_kept = _folder is not None
    compiled: F = numba.njit(cache=is_kept, **_LEAN, **_FROM_PYTHON)(function)
    return compiled


class _Helper(CPUDispatcher):
    def __call__(self, *_: object) -> NoReturn:
        raise TypeError(
            f"{self.py_func.__name__} is called by kernels only: make it a kernel, or wrap it"
        )


def _only_for_kernels(function: F, **options: object) -> F:
    return cast(F, _Helper(function, targetoptions={**options, **_FROM_KERNELS}))


def helper(function: F) -> F:
    """What only kernels call, and makes no array: lean, and a part of each caller.

    A call hands over each table as ten numbers, which takes longer than what most of them do.
    """
    return _only_for_kernels(function, forceinline=True, **_LEAN)


def allocating_helper(function: F) -> F:
    """What only kernels call, and makes arrays."""
    return _only_for_kernels(function, inline="never", error_model="numpy")


def let_go() -> None:
    """Frees 50 MiB once kernels are loaded: LLVM's code stays in its file, should it be needed."""
    with contextlib.suppress(psutil.Error, OSError, AttributeError):  # not all systems tell
        _let_go_of_llvm()


def _let_go_of_llvm() -> None:
    c_library = ctypes.CDLL(None)
    for area in psutil.Process().memory_maps(grouped=False):
        if "llvmlite" in area.path and area.perms.startswith("r-x"):
            first, end = (int(address, 16) for address in area.addr.split("-"))
            c_library.madvise(
                ctypes.c_void_p(first), ctypes.c_size_t(end - first), mmap.MADV_DONTNEED
            )


def frozen(array: NDArray[T]) -> NDArray[T]:
    """A read-only view: arguments that only some calls could write to are compiled for twice."""
    if array.flags.writeable:
        array = array.view()
        array.flags.writeable = False
    return array
