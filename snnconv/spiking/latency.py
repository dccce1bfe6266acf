"""The latency class of a method: costs that its number of timesteps T does not include."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Latency:
    """Latency class: costs that a published T does not include; only methods with equal values are ranked together."""

    warmup: int = 0  # steps simulated for each sample before the first counted step
    waits: bool = False  # whether a layer needs several inputs (all T, or a warm-up of its own) before its first output
    spike_levels: int = 1  # 1: binary spikes; k: up to k levels per step
    signed: bool = False  # whether neurons emit negative spikes
    readout_from: int = 1  # first step that counts in the readout
    needs_training: str = "none"  # none | activation | weights
    float_operators: int = 0  # number of layers with a non-linear function in floating point in every step
    encoding: str = "direct"  # input of each step: direct | frames | poisson | phase | ttfs (encoders/)
    readout: str = "mean"  # output at t: mean of all steps | membrane | last (tasks.py)
    analog_currents: bool = False  # whether a weight layer after the first neuron receives values that are not spikes

    def as_dict(self) -> dict:
        """For `result.json`."""
        return asdict(self)


def latency_class(latency: Mapping[str, Any]) -> str:
    """The latency class as text; only results of equal classes are ranked together."""
    operators = latency.get("float_operators", 0)  # missing in results of older versions
    traits = {
        f"pre-simulated τ={latency['warmup']}": latency["warmup"] > 0,
        "waiting": latency["waits"],
        "signed": latency["signed"],
        f"{latency['spike_levels']} levels": latency["spike_levels"] > 1,
        f"readout from {latency['readout_from']}": latency["readout_from"] > 1,
        "trained after conversion": latency["needs_training"] == "weights",
        f"{operators} float operators": operators > 0,
        f"{latency.get('encoding')} input": latency.get("encoding", "direct") != "direct",
        f"readout {latency.get('readout')}": latency.get("readout", "mean") != "mean",
        "analog currents": latency.get("analog_currents", False),
    }
    return ", ".join(trait for trait, holds in traits.items() if holds) or "plain"
