"""Random networks and damaged run folders, until something is wrong; what is wrong is printed with its seed.

python scripts/fuzz.py networks 0 2000              each is refused in words, or its spiking network tends to it
python scripts/fuzz.py files 0 500 runs/…           reading a damaged copy of a run folder fails in words and starts nothing
"""

import logging
import sys
import tempfile
import warnings
from pathlib import Path

from fuzzing import files, networks

from snnconv.runtime import launch


def main(kind: str, first: str, last: str, *runs: str) -> int:
    """The number of findings."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    launch.register()
    findings = 0
    with tempfile.TemporaryDirectory() as scratch:
        for seed in range(int(first), int(last)):
            run = Path(runs[seed % len(runs)]) if runs else None
            found = networks.finding(seed) if run is None else files.finding(seed, run, Path(scratch))
            if found is not None:
                findings += 1
                print(f"{kind} {seed}: {found}", flush=True)
    print(f"{kind}: seeds {first} to {last}, {findings} findings")
    return findings


if __name__ == "__main__":
    sys.exit(bool(main(*sys.argv[1:])))
