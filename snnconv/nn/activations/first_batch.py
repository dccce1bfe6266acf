"""Initial thresholds computed from the first batch of a training."""

from typing import Any

import torch
from torch import Tensor, nn

from snnconv.nn.functional import closest_threshold
from snnconv.nn.kernels import is_traced
from snnconv.runtime import distributed

ENOUGH = 2**16  # inputs of the first batch from which a threshold is found


def start_at_first_batch(site: nn.Module) -> None:
    """Register a hook with which the first forward pass of the activation `site` sets θ, unless θ was set before."""
    site.register_forward_pre_hook(_at_first_batch)


def _at_first_batch(site: Any, inputs: tuple[Tensor]) -> None:
    """Hook that removes itself; torch.export records the network without it, torch.compile runs it outside its graphs."""
    if not torch.compiler.is_exporting():
        _set_threshold(site, inputs[0])


@torch.compiler.disable
@torch.no_grad()
def _set_threshold(site: Any, x: Tensor) -> None:
    """θ of smallest squared error between ReLU and its quantization on `x`; with several processes the mean over processes."""
    if is_traced(x):
        return
    for key in [key for key, hook in site._forward_pre_hooks.items() if hook is _at_first_batch]:
        del site._forward_pre_hooks[key]
    if not site.threshold.isnan().any():  # set, calibrated or loaded
        return
    samples = x.float().clamp(0, getattr(site, "ceiling", None)).flatten()
    samples = samples[:: -(-len(samples) // ENOUGH)]  # evenly
    threshold = closest_threshold(samples, site.levels) if samples.max() > 0 else samples.new_ones(())
    site.set_threshold(distributed.sum_over_ranks(threshold.clone()).item() / distributed.world_size())
