"""Test random networks and damaged run folders; every fault is printed with its seed.

python scripts/fuzz.py networks 0 2000              each is refused with ValueError, or its SNN converges to it
python scripts/fuzz.py files 0 500 runs/…           a damaged copy of a run folder is refused and starts no process
"""

import logging
import sys
import tempfile
import warnings
from pathlib import Path

from fuzzing import files, networks

from snnconv.runtime import launch


def main(kind: str, first: str, last: str, *runs: str) -> int:
    """Print every fault and return their number."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    launch.register()
    findings = 0
    with tempfile.TemporaryDirectory() as scratch:
        for seed in range(int(first), int(last)):
            run = Path(runs[seed % len(runs)]) if runs else None
            fault = networks.finding(seed) if run is None else files.finding(seed, run, Path(scratch))
            if fault is not None:
                findings += 1
                print(f"{kind} {seed}: {fault}", flush=True)
    print(f"{kind}: seeds {first} to {last}, {findings} findings")
    return findings


if __name__ == "__main__":
    sys.exit(bool(main(*sys.argv[1:])))
