"""Train a network with quantized activations, convert it to spikes, show accuracy against timesteps.

python train.py                             a demonstration: experiment=demo
python train.py model=vgg16 levels=8        the same as `snnconv train …`; `--help` lists what can be chosen

The steps are in snnconv/commands/train.py.
"""

from snnconv.cli import run

if __name__ == "__main__":
    run("train")
