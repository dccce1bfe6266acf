"""Print how each layer of a network is converted, and the obstacles to a conversion.

python scripts/check.py model=resnet20 method=srp        the same as `snnconv check …`

The steps are in snnconv/commands/check.py.
"""

from snnconv.cli import run

if __name__ == "__main__":
    run("check")
