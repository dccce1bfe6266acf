"""The allocator of the C library: freed memory is used again, unless the user decides otherwise."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("resource", reason="page faults are counted by POSIX systems")
pytestmark = pytest.mark.skipif(
    "CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="these settings are those of glibc"
)

ROUNDS = """
import ctypes, resource
from snnconv.runtime.allocator import keep_freed_memory
SIZE, libc = 24 << 20, ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
def step():  # eight tensors, then all of them freed
    blocks = [ctypes.memset(libc.malloc(SIZE), 1, SIZE) for _ in range(8)]
    for block in reversed(blocks):
        libc.free(block)
changed = keep_freed_memory()
step(), step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step(), step()
print(changed, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.parametrize(
    "variables", [{}, {"MALLOC_TOP_PAD_": "0"}, {"GLIBC_TUNABLES": ""}], ids=["default", "malloc", "tunables"]
)
def test_freed_memory_is_kept_unless_the_user_sets_the_allocator(variables):
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_", "LD_PRE"))}
    done = subprocess.run(
        [sys.executable, "-c", ROUNDS], env=plain | variables, capture_output=True, text=True, check=True
    )
    changed, faults = done.stdout.split()
    pages = 2 * 8 * (24 << 20) // os.sysconf("SC_PAGE_SIZE")
    if variables:
        assert (changed, int(faults) > pages // 2) == (
            "False",
            True,
        )  # glibc returns the memory, the system clears it again
    else:
        assert (changed, int(faults) < 100) == ("True", True)
