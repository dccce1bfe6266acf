"""Settings of the C library's memory allocator (glibc).

glibc returns the memory of a freed tensor to the system, which then provides the pages of the next tensor one by one and fills
them with zeros.  A training step or a simulated timestep allocates the same sizes as the step before, so this is wasted time.
"""

import ctypes
import os

# Parameters of mallopt(3) in malloc.h, and their values in bytes.  32 MiB is the largest threshold that glibc accepts; larger
# blocks are still returned as soon as they are freed.
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
KEPT = {MMAP_THRESHOLD: 32 << 20, TRIM_THRESHOLD: (2 << 30) - 1, TOP_PAD: 64 << 20}
CHOSEN = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")  # environment variables that set or replace the allocator


def keep_freed_memory() -> bool:
    """Let freed memory be used again without the system, unless the user has set the allocator; False without glibc."""
    if any(name.startswith(CHOSEN) for name in os.environ):
        return False
    try:
        glibc = os.confstr("CS_GNU_LIBC_VERSION")
    except (AttributeError, OSError, ValueError):  # not a POSIX system, or another C library
        return False
    return bool(glibc) and all(ctypes.CDLL(None).mallopt(parameter, size) for parameter, size in KEPT.items())
