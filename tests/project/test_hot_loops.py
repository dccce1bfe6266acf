"""Values are not read from the device inside loops over time and steps: each read waits for the device."""

import ast
from pathlib import Path

import snnconv

ROOT = Path(snnconv.__file__).parent
HOT = [
    ROOT / "nn" / "functional.py",
    ROOT / "nn" / "recompute.py",
    *(ROOT / "nn" / "activations").glob("*.py"),
    *(ROOT / "spiking" / "neurons").glob("*.py"),
    *(ROOT / "spiking" / "operators").glob("*.py"),
    *(ROOT / "spiking" / "encoders").glob("*.py"),
    *(ROOT / "spiking" / name for name in ("time_loop.py", "network.py", "recording.py")),
    *(ROOT / "training" / name for name in ("trainer.py", "lookahead.py", "muon.py", "through_time.py")),
]
READS = {"item", "cpu", "tolist", "numpy"}
ALLOWED = {  # "room/file.py:function": when it runs
    "nn/activations/cs_qcfs.py:set_threshold": "calibration",
    "nn/activations/cs_qcfs.py:extra_repr": "print",
    "nn/activations/first_batch.py:_set_threshold": "first batch",
    "nn/activations/qcfs.py:extra_repr": "print",
    "spiking/encoders/base.py:settings": "results",
    "spiking/neurons/base.py:_constants": "state_dict",
    "spiking/neurons/base.py:_load_from_state_dict": "load_state_dict",
    "spiking/neurons/base.py:_described": "errors of load_state_dict",
    "spiking/neurons/base.py:positive": "construction",
    "spiking/neurons/spikingjelly.py:__init__": "construction",
    "spiking/neurons/surrogate.py:trained": "after training",
}


def reads() -> set[str]:
    """Functions of hot files that read values, as "room/file.py:function"."""
    places = set()
    for file in HOT:
        for function in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef):
                calls = [node.func for node in ast.walk(function) if isinstance(node, ast.Call)]
                if READS & {call.attr for call in calls if isinstance(call, ast.Attribute)}:
                    places.add(f"{file.relative_to(ROOT).as_posix()}:{function.name}")
    return places


def test_values_are_read_only_where_a_reason_is_given():
    assert all(file.is_file() for file in HOT)
    assert reads() == set(ALLOWED)
