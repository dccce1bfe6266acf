"""Convert a trained network again and evaluate it, without training.

python scripts/evaluate.py run=runs/… method=srp        the same as `snnconv evaluate …`

The steps are in snnconv/commands/evaluate.py.
"""

from snnconv.cli import run

if __name__ == "__main__":
    run("evaluate")
