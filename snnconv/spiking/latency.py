"""The latency class of a method: what a published T may hide."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Latency:
    """Latency class: facts a published "T" may hide; methods with equal answers share a ranking (architecture.md, section 6)."""

    warmup: int = 0  # steps spent per sample before the first counted one
    waits: bool = False  # does a layer need several inputs (all T, or a warm-up of its own) before its first output?
    spike_levels: int = 1  # 1: binary spikes; k: up to k levels per step
    signed: bool = False  # may neurons emit negative spikes?
    readout_from: int = 1  # first step that counts in the readout
    needs_training: str = "none"  # none | activation | weights
    float_operators: int = 0  # non-linear functions that are evaluated in floating point in every step (one a layer)
    encoding: str = "direct"  # input of each step: direct | frames | poisson | phase | ttfs (encoders/)
    readout: str = "mean"  # what is read at t: mean of all steps | membrane | last (tasks.py)
    analog_currents: bool = False  # does a weight layer behind the first neuron receive values that are no spikes?

    def as_dict(self) -> dict:
        """For `result.json`."""
        return asdict(self)


def latency_class(latency: Mapping[str, Any]) -> str:
    """The latency class in words with their numbers; only equal ones share a ranking (architecture.md, section 6)."""
    operators = latency.get("float_operators", 0)  # results of older versions have none
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
