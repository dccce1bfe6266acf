"""Run by test_activations.py: torch.compile and strict export, which cannot trace the shape checks that tests install."""

import torch
from torch import nn

from snnconv.nn.activations.clipped_relu import ClippedReLU
from snnconv.nn.activations.noisy_qcfs import NoisyQCFS
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.activations.qcfs_floor_first import QCFSFloorFirst
from snnconv.nn.activations.slip_relu import SlipReLU


def compiled_as_a_whole(activation: nn.Module) -> None:
    """One graph; the same values and gradients as in eager mode."""
    x, results = torch.randn(4, 8, 40, 40), []
    for run in (activation, torch.compile(activation, fullgraph=True)):
        leaf = x.clone().requires_grad_()
        activation.zero_grad()
        output = run(leaf)
        output.square().sum().backward()
        results.append((output.detach(), leaf.grad, activation.theta.grad))
    (output, of_x, of_theta), compiled = results
    assert torch.equal(compiled[0], output)
    assert torch.equal(compiled[1], of_x)
    torch.testing.assert_close(compiled[2], of_theta)  # a sum, in another order


def exported_strictly(activation: nn.Module) -> None:
    """One call, with a dynamic batch."""
    batch, x = torch.export.Dim("batch"), torch.randn(70, 8, 8, 8)
    program = torch.export.export(activation, (x[:2],), dynamic_shapes=({0: batch},), strict=True)
    (call,) = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert call.startswith("snnconv."), call
    assert torch.equal(program.module()(x), activation(x))


torch.manual_seed(0)
for kind in (QCFS, QCFSFloorFirst, ClippedReLU, SlipReLU, NoisyQCFS):
    activation = kind(4, 0.5).eval()
    compiled_as_a_whole(activation)
    exported_strictly(activation)
