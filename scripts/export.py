"""Write a trained network as a file for other programs, checked against the network before it is kept.

python scripts/export.py run=runs/… export=nir        the same as `snnconv export …`

The steps are in snnconv/commands/export.py.
"""

from snnconv.cli import run

if __name__ == "__main__":
    run("export")
