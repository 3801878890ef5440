"""Memory that a training on a CPU frees and needs again at once, kept by the process.

Every step frees its activations and gradients, and the next step asks for as many bytes. glibc
gives blocks of 32 MiB and more back to the kernel, which hands them out again zeroed, page
fault by page fault. GPUs have torch's own caching allocator; other C libraries than glibc are
left as they are.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Numbers of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_KEEP = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1))
"""Take nothing straight from the kernel, give nothing back to it."""
_GIVE_BACK = ((_MMAP_MAX, 65536), (_MMAP_THRESHOLD, 32 << 20), (_TRIM_THRESHOLD, 64 << 20))
"""What glibc itself arrives at once large blocks have been freed; it cannot be asked for its values."""


@contextmanager
def freed_memory_kept(device: torch.device) -> Iterator[None]:
    """Keep freed memory while a training on `device` lasts, and give it back in the end.

    Does nothing on a GPU, where the C library is not glibc, and where the user's environment
    sets up the allocator (``MALLOC_...``, or ``glibc.malloc`` in ``GLIBC_TUNABLES``).

    Parameters
    ----------
    device : torch.device
        Where the training runs.
    """
    libc = _glibc()
    if device.type != "cpu" or libc is None or _user_decides():
        yield
        return
    for setting in _KEEP:
        libc.mallopt(*setting)
    try:
        yield
    finally:
        for setting in _GIVE_BACK:
            libc.mallopt(*setting)
        libc.malloc_trim(ctypes.c_size_t(0))


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    loaded = ctypes.CDLL(None)
    return loaded if hasattr(loaded, "gnu_get_libc_version") else None


def _user_decides() -> bool:
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    return "glibc.malloc" in tunables or any(name.startswith("MALLOC_") for name in os.environ)
