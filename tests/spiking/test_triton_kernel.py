"""SpikingJelly's Triton kernel for CUDA, run by Triton's interpreter on the CPU, compared with our single step."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

PROGRAM = """
import torch
from spikingjelly._ops.if_.triton import _forward_kernel
from snnconv.spiking.neurons.integrate_fire import IntegrateFireNode

steps, neurons, theta, first = 6, 300, 1.1, 0.55
current = torch.randn(steps, neurons, generator=torch.Generator().manual_seed(0))
spikes, potentials, charged = (torch.empty_like(current) for _ in range(3))
settings = {"SOFT_RESET": True, "STORE_V_SEQ": True, "BLOCK": 256, "LAYOUT": None}
start = torch.full((neurons,), first)
_forward_kernel[(2,)](current, start, spikes, potentials, charged, steps, neurons, theta, 0.0, **settings)
node = IntegrateFireNode(theta, first)
node.step_mode = "s"
with torch.no_grad():
    expected = torch.stack([node(step) for step in current])
assert 0 < expected.mean() < 1
assert torch.equal(spikes, expected)
assert torch.equal(potentials[-1], node.v)
"""


@pytest.mark.long
def test_the_kernel_emits_the_same_spikes_and_potentials():
    """In a process of its own, because Triton reads its variable at import."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
