"""Run a trained network as a spiking network of integers: accuracy compared with float, bits of membranes, memory.

python scripts/integerize.py run=runs/… method=qcfs        the same as `snnconv integerize …`

The steps are in snnconv/commands/integerize.py.
"""

from snnconv.cli import run

if __name__ == "__main__":
    run("integerize")
