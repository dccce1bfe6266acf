"""Training steps of ANNs, and through time, on an accelerator that is not there: a tensor left on the CPU is an error.

What cannot be fake, but is tested in tests/analysis/test_logical_devices.py: averages of weights (`fit.ema`: AveragedModel copies
storages and reads a counter), and sums and checks that are read from the device once per epoch (`Totals`, `all_finite`), because
fake tensors have no values.  Not tested: autocast of the stand-in for
CUDA, which has no kernels to cast for; Inductor's code and CUDA graphs (`compile=true`, reduce-overhead), which need a device.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import fake_training
import pytest

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def errors() -> dict[str, str]:
    """The error of each case, "" without one, from one process for all."""
    script = Path(fake_training.__file__)
    environment = {**os.environ, "PYTHONPATH": str(script.parents[2])}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return {name: error for line in done.stdout.splitlines() for name, error in json.loads(line).items()}


@pytest.mark.parametrize("case", fake_training.CASES)
def test_every_gradient_stays_on_the_device(case: str, errors: dict[str, str]):
    assert errors[case] == ""
