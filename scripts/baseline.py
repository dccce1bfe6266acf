"""Quantize a trained network without spikes, as a baseline for spiking networks.

python scripts/baseline.py run=runs/… baseline=ptq_static        the same as `snnconv baseline …`

The steps are in snnconv/commands/baseline.py.
"""

from snnconv.cli import run

if __name__ == "__main__":
    run("baseline")
