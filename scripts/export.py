"""Write a trained network to a file for other programs; the file is compared with the network first.

python scripts/export.py run=runs/… export=nir        the same as `snnconv export …`

The steps are in snnconv/commands/export.py.
"""

from snnconv.cli import run

if __name__ == "__main__":
    run("export")
