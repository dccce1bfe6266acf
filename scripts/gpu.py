"""Run measurements that need a GPU, in limited time: jobs of experiments/queue.yaml with `machine: gpu`, smallest priority first.

make gpu [SECONDS=540]                             the same as python scripts/gpu.py --seconds 540
python scripts/gpu.py --list                       shows the jobs
python scripts/gpu.py --tiny DIR                   a rehearsal on a CPU: every job for real, on little data, in DIR

Each result is saved as its job ends (experiments/gpu/results.jsonl), and the next call resumes; see work_queue.py.
experiments/gpu/README.md describes the use of a machine that is lent for a quarter of an hour.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from jobs.program import add_arguments, run_program  # noqa: E402
from jobs.progress import Queue  # noqa: E402


def main() -> None:
    """Read the arguments and work."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", type=Path, metavar="DIR", help="rehearse on the CPU, in DIR")
    add_arguments(parser, seconds=540)
    options = parser.parse_args()

    def queue() -> Queue:
        file = ROOT / "experiments" / "queue.yaml"
        if options.tiny:
            return Queue(file, options.only, "gpu", options.tiny / "runs", options.tiny / "results", tiny=True)
        return Queue(file, options.only, "gpu")

    if not (options.tiny or options.list):
        require_gpu()
    run_program(queue, options)


def require_gpu() -> None:
    """End the process if there is no GPU."""
    import torch

    if not torch.cuda.is_available():
        sys.exit(f"torch {torch.__version__} finds no CUDA device; to rehearse: python scripts/gpu.py --tiny DIR")


if __name__ == "__main__":
    main()
