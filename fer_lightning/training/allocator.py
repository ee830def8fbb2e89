"""Keeps the memory that a training step frees for the next one."""

from __future__ import annotations

import ctypes
import platform
from typing import Final

_M_TRIM_THRESHOLD: Final = -1  # of glibc's malloc.h
_M_MMAP_THRESHOLD: Final = -3
_LARGEST_MMAP_THRESHOLD: Final = 32 * 2**20  # bytes
_KEPT: Final = 2**31 - 1


def keep_freed_memory() -> None:
    """Tells glibc's malloc not to give freed memory back to the system.

    By itself it does so with every activation of some megabytes, and the next step pays a page fault for each 4 KiB of
    it: a tenth and more of a step on a CPU. Results do not change, the peak of memory hardly. Does nothing where there
    is another C library.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT)
