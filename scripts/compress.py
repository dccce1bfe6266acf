"""Make a trained network smaller in stages, train it after each, convert it, and report what each stage costs and gains.

python scripts/compress.py run=runs/… compress=[prune30,sparse24]        the same as `snnconv compress …`

The steps are in snnconv/commands/compress.py.
"""

from snnconv.cli import run

if __name__ == "__main__":
    run("compress")
