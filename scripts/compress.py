"""Compress a trained network in stages, train it after each, convert it, and report accuracy and size of each stage.

python scripts/compress.py run=runs/… compress=[prune30,sparse24]        the same as `snnconv compress …`

The steps are in snnconv/commands/compress.py.
"""

from snnconv.cli import run

if __name__ == "__main__":
    run("compress")
