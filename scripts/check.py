"""Show what conversion makes of a network, layer by layer, and what stands in its way.

python scripts/check.py model=resnet20 method=srp        the same as `snnconv check …`

The steps are in snnconv/commands/check.py.
"""

from snnconv.cli import run

if __name__ == "__main__":
    run("check")
