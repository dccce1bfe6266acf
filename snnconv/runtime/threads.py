"""The number of threads, and their wait policy.

Threads of OpenMP spin while they wait for work.  If other programs run on the machine, this takes time from the threads that have
work (measured: 10 to 100 times slower).  A passive wait costs only a few microseconds per parallel region.
"""

import os

PASSIVE = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "0",
    "KMP_BLOCKTIME": "0",
}  # any OpenMP, GNU's, Intel's and LLVM's


def wait_passively() -> None:
    """Let idle threads sleep, unless the user has set a policy.  Has an effect only before torch is imported."""
    if not PASSIVE.keys() & os.environ.keys():
        os.environ.update(PASSIVE)
