"""An integer network as one `.npz`, which can be read with NumPy only: its steps, and example images with their spikes.

| entry | holds |
| --- | --- |
| README | this text and the meaning of each kind of step, in UTF-8 (`bytes(entries["README"]).decode()`) |
| description | JSON in UTF-8: format, image_unit, timesteps, output, every step but for its arrays, SHA-256 of every array |
| checksum | SHA-256 of the description, in hexadecimal |
| `<step>.<name>` | the arrays of each step (see below), int8, int16 or int32 |
| `units.<path>` | float64 [C]: what a unit of these potentials, or of logits, stands for; not needed to run the network |
| example.images | int32 [N, C, H, W], integers already |
| example.logits | int32 [T, N, K] |
| example.spikes.`<step>` | uint8: the spikes [T, N, …] as bits (`numpy.packbits` of all in order) |
"""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from snnconv.hardware.integer import program as program_module
from snnconv.hardware.integer.golden import Outcome, difference, run
from snnconv.hardware.integer.program import Program, Step

FORMATS = (
    "snnconv integer network, 1",
    "snnconv integer network, 2",
)  # the second: neurons with a bias or without debt


def packed(program: Program, images: np.ndarray, outcome: Outcome) -> bytes:
    """The content of a file with `program`, integer `images` [N, C, H, W], and the `outcome` of running them."""
    logits, spikes = outcome
    arrays = {
        f"{number}.{name}": values for number, step in enumerate(program.steps) for name, values in step.arrays.items()
    }
    arrays |= {f"units.{path}": unit for path, unit in program.units.items()}
    arrays |= {"example.images": images.astype(np.int32), "example.logits": logits.astype(np.int32)}
    for path, number in program.neurons().items():
        arrays[f"example.spikes.{number}"] = np.packbits(spikes[path].astype(np.uint8))
    steps = [{"kind": step.kind, "name": step.name, "inputs": step.inputs, "shape": step.shape, "settings": step.settings,
              "arrays": list(step.arrays)} for step in program.steps]  # fmt: skip
    digests = {name: _digest(values) for name, values in arrays.items()}
    about = {
        "format": FORMATS[program.varied],
        "image_unit": program.image_unit,
        "timesteps": len(logits),
        "output": program.output,
    }
    text = json.dumps({**about, "steps": steps, "digests": digests}).encode()
    content = io.BytesIO()
    whole: Any = {
        "README": np.frombuffer(f"{__doc__}\n{program_module.__doc__}".encode(), np.uint8),
        "description": np.frombuffer(text, np.uint8),
        "checksum": np.array(hashlib.sha256(text).hexdigest()),
        **arrays,
    }
    np.savez_compressed(content, **whole)
    return content.getvalue()


def read(path: str | Path) -> Program:
    """The network in a file; ValueError naming an entry that was altered, is damaged or missing."""
    program, *_ = _opened(path)
    return program


def replay(path: str | Path) -> Outcome:
    """Logits and spikes of the example images in a file, computed with the network in the file.

    ValueError naming the layer and timestep if they differ from those in the file, or naming an altered entry.
    """
    program, images, expected = _opened(path)
    actual = run(program, images, len(expected[0]))
    different = difference(actual, expected)
    if different:
        raise ValueError(f"{path}: replayed, {different}")
    return actual


def _opened(path: str | Path) -> tuple[Program, np.ndarray, Outcome]:
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error})") from error
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as entries:
            arrays = {name: entries[name] for name in entries.files}
        arrays.pop("README", None)
        text, checksum = arrays.pop("description").tobytes(), str(arrays.pop("checksum"))
    except Exception as error:  # zipfile, zlib and NumPy raise their own types of errors for damaged files
        raise ValueError(f"{path}: damaged, or not an integer network ({error})") from error
    if hashlib.sha256(text).hexdigest() != checksum:
        raise ValueError(f"{path}: the description of the network was altered; its checksum differs")
    about = json.loads(text)
    if about["format"] not in FORMATS:
        raise ValueError(
            f"{path}: its format is {about['format']!r}, but this version of snnconv reads {' and '.join(map(repr, FORMATS))}"
        )
    for name in {**about["digests"], **arrays}:
        if name not in about["digests"] or name not in arrays:
            raise ValueError(f"{path}: {_title(about, name)} {'was added' if name in arrays else 'is missing'}")
        if _digest(arrays[name]) != about["digests"][name]:
            raise ValueError(f"{path}: {_title(about, name)} was altered; its checksum differs")
    steps = [Step(step["kind"], step["name"], tuple(step["inputs"]), tuple(step["shape"]), step["settings"],
                  {name: arrays[f"{number}.{name}"] for name in step["arrays"]})
             for number, step in enumerate(about["steps"])]  # fmt: skip
    units = {name.removeprefix("units."): unit for name, unit in arrays.items() if name.startswith("units.")}
    program = Program(steps, about["output"], about["image_unit"], units)
    images, logits, spikes = arrays["example.images"].astype(np.int64), arrays["example.logits"], {}
    for layer, number in program.neurons().items():
        shape = (*logits.shape[:2], *steps[number].shape)
        bits = np.unpackbits(arrays[f"example.spikes.{number}"], count=int(np.prod(shape)))
        spikes[layer] = bits.reshape(shape)
    return program, images, (logits, spikes)


def _title(about: dict, entry: str) -> str:
    """`entry` with the name of its layer."""
    number = entry.removeprefix("example.spikes.").partition(".")[0]
    return f"{entry} ({about['steps'][int(number)]['name']})" if number.isdecimal() else entry


def _digest(values: np.ndarray) -> str:
    """SHA-256 of dtype, shape and values, in little-endian order."""
    values = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return hashlib.sha256(f"{values.dtype.str} {values.shape} ".encode() + values.tobytes()).hexdigest()
