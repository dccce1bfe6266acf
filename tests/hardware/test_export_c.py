"""The integer network as .npz and C: both emit the golden model's spikes; nothing is written that does not."""

import itertools
import json
import shutil
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from hardware_networks import Signals, act, low_rank, shortcut_a
from snnconv.conversion.methods import qcfs
from snnconv.hardware.export import c, c_source, example
from snnconv.hardware.export.c_memory import places, sources
from snnconv.hardware.integer import file as integer_file
from snnconv.hardware.integer import golden
from snnconv.hardware.integer.network import integerize
from snnconv.hardware.integer.program import program_of
from snnconv.nn.activations.qcfs import QCFS
from snnconv.spiking.neurons.integrate_fire import IntegrateFire

T, STRICT = 4, ("-Wall", "-Wextra", "-Wpedantic", "-Werror")
compiled = pytest.mark.skipif(not any(map(shutil.which, c.COMPILERS)), reason="no C compiler")


@pytest.fixture(params=["plain", "residual", "shortcut_a", "low_rank"])
def snn(request, exact_network):
    made = {"shortcut_a": shortcut_a, "low_rank": low_rank}.get(request.param)
    ann = made() if made else exact_network(request.param, lambda: QCFS(4, 8.0), seed=3)
    return qcfs.convert(ann, [], neuron=IntegrateFire)


@pytest.fixture
def plain(exact_network):
    return qcfs.convert(exact_network("plain", lambda: QCFS(4, 8.0), seed=3), [], neuron=IntegrateFire)


@pytest.fixture
def data(exact_images):
    batches = [(exact_images(4, seed), torch.zeros(4)) for seed in (1, 2)]
    return SimpleNamespace(calibration=batches, test=batches)


@compiled
def test_every_spike_is_the_golden_models(snn, data, tmp_path):
    facts = c.export(nn.Identity(), snn, data, tmp_path, images=6, timesteps=T)
    assert facts["files"] == {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert sorted(facts["files"]) == ["CMakeLists.txt", "snn.c", "snn.h", "snn.npz", "snn_test.c", "snn_weights.h"]
    assert facts["differing_from_the_golden_model"] == {"torch": 0, "snn.npz": 0, "snn.c": 0}
    images = torch.cat([x for x, _ in data.test])[:6]
    expected = golden.outcome(integerize(snn, data.calibration), images, T)
    for found in (integer_file.replay(tmp_path / "snn.npz"), run(tmp_path, images, T)):
        assert golden.difference(found, expected) is None
        assert np.array_equal(found[0], expected[0])
        for path, spikes in expected[1].items():
            assert np.array_equal(found[1][path], spikes), path
            assert 0 < spikes.mean() < 1
    longer = golden.outcome(integerize(snn, data.calibration), images, 9)
    assert golden.difference(run(tmp_path, images, 9), longer) is None


def run(folder, images, timesteps):
    """Outputs of the compiled files in `folder` for `images`; compilation must not warn."""
    program = integer_file.read(folder / "snn.npz")
    return c.run_c(
        folder, program, program.digitize(images.numpy()), timesteps, next(filter(shutil.which, c.COMPILERS)), *STRICT
    )


@compiled
@pytest.mark.parametrize(
    "settings", [{"bits": 12}, {"bits": 2, "membrane_bits": 12}, {"per_channel": False, "image_bits": 4}]
)
def test_other_widths(plain, data, tmp_path, settings):
    facts = c.export(nn.Identity(), plain, data, tmp_path, images=3, timesteps=T, **settings)
    assert facts["differing_from_the_golden_model"]["snn.c"] == 0
    program = integer_file.read(tmp_path / "snn.npz")
    widths = {step.arrays["weights"].dtype.name for step in program.steps if "weights" in step.arrays}
    assert widths == {"int16" if settings.get("bits", 8) > 8 else "int8"}
    assert ("int16_t snn_weight" in (tmp_path / "snn_weights.h").read_text()) == (widths == {"int16"})
    images = data.test[0][0][:3]
    expected = golden.outcome(integerize(plain, data.calibration, **settings), images, T)
    assert golden.difference(run(tmp_path, images, T), expected) is None


def test_file_holds_integers_that_numpy_alone_reads(plain, data, tmp_path):
    c.export(nn.Identity(), plain, data, tmp_path, images=2, timesteps=T)
    network = integerize(plain, data.calibration)
    with np.load(tmp_path / "snn.npz") as entries:
        steps = json.loads(entries["description"].tobytes())["steps"]
        assert [step["kind"] for step in steps] == [
            "image",
            "conv",
            "fire",
            "sum_pool",
            "reshape",
            "linear",
            "fire",
            "linear",
        ]
        assert {entries[name].dtype.kind for name in entries.files if name[0].isdigit()} == {"i"}
        first = network.layers["0"]
        assert np.array_equal(entries["1.weights"], first.integers)
        assert np.array_equal(entries["1.multiplier"], first.multiplier)
        assert np.array_equal(entries["2.threshold"], network.neurons["2"].node.theta)
        assert np.allclose(entries["units.2"] * entries["2.threshold"], plain.neurons()["2"].threshold, rtol=0.01)


def altered(path, name: str, change, also_checksums: bool = False) -> None:
    """Change an entry of a file; `also_checksums`: as one would who covers it up."""
    with np.load(path) as entries:
        arrays = {key: entries[key] for key in entries.files}
    arrays[name] = change(arrays[name].copy())
    if also_checksums:
        about = json.loads(arrays["description"].tobytes())
        about["digests"][name] = integer_file._digest(arrays[name])
        text = json.dumps(about).encode()
        arrays["description"] = np.frombuffer(text, np.uint8)
        arrays["checksum"] = np.array(integer_file.hashlib.sha256(text).hexdigest())
    np.savez_compressed(path, **arrays)


def bumped(values):
    values.flat[0] += 100
    return values


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("1.weights", r"1\.weights \(0\) was altered"),
        ("2.threshold", r"2\.threshold \(2\) was altered"),
        ("example.images", "example.images was altered"),
        ("example.spikes.6", r"example\.spikes\.6 \(7\) was altered"),
        ("description", "the description of the network was altered"),
    ],
)
def test_an_altered_file_is_told(plain, data, tmp_path, name, message):
    c.export(nn.Identity(), plain, data, tmp_path, images=2, timesteps=T)
    integer_file.read(tmp_path / "snn.npz")
    altered(tmp_path / "snn.npz", name, bumped)
    with pytest.raises(ValueError, match=message):
        integer_file.read(tmp_path / "snn.npz")


def test_replay_tells_what_checksums_would_not(plain, data, tmp_path):
    path = tmp_path / "snn.npz"
    c.export(nn.Identity(), plain, data, tmp_path, images=2, timesteps=T)
    altered(path, "2.threshold", lambda theta: theta * 2, also_checksums=True)
    integer_file.read(path)
    with pytest.raises(ValueError, match=r"replayed, 2: \d+ spikes differ, first in timestep \d of image \d"):
        integer_file.replay(path)


def test_damaged_files(plain, data, tmp_path):
    path = tmp_path / "snn.npz"
    c.export(nn.Identity(), plain, data, tmp_path, images=2, timesteps=T)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="damaged, or not an integer network"):
        integer_file.read(path)
    np.savez(path, a=np.zeros(3))
    with pytest.raises(ValueError, match="damaged, or not an integer network"):
        integer_file.read(path)
    with pytest.raises(ValueError, match=r"absent\.npz: cannot be read"):
        integer_file.read(tmp_path / "absent.npz")


@compiled
def test_nothing_is_written_where_c_differs(plain, data, tmp_path, monkeypatch):
    write = c.write_c

    def altered_source(*arguments):
        files = write(*arguments)
        return {**files, "snn.c": files["snn.c"].replace(b"charged >= theta", b"charged > theta + 9999")}

    monkeypatch.setattr(c, "write_c", altered_source)
    with pytest.raises(ValueError, match=r"snn\.c differs from the golden model: \d: \d+ spikes differ"):
        c.export(nn.Identity(), plain, data, tmp_path, timesteps=T)
    monkeypatch.setattr(c, "write_c", lambda *arguments: {"snn.c": b"int main(void) { return 3 }"})
    with pytest.raises(ValueError, match=r"snn\.c: \w+ reports an error: snn\.c: .*"):
        c.export(nn.Identity(), plain, data, tmp_path, timesteps=T)
    assert not list(tmp_path.iterdir())


def test_nothing_is_written_where_torch_differs(plain, data, tmp_path, monkeypatch):
    own = golden.run
    monkeypatch.setattr(golden, "run", lambda program, images, steps: own(program, images + 40, steps))
    with pytest.raises(ValueError, match=r"the network in torch differs from the golden model: \d: \d+ spikes differ"):
        c.export(nn.Identity(), plain, data, tmp_path, timesteps=T)
    assert not list(tmp_path.iterdir())


def test_without_a_compiler(plain, data, tmp_path, monkeypatch):
    monkeypatch.setattr(c, "COMPILERS", ("no-such-compiler",))
    facts = c.export(nn.Identity(), plain, data, tmp_path, images=2, timesteps=T)
    assert facts["differing_from_the_golden_model"]["snn.c"] is None
    assert "no-such-compiler was found, so snn.c was not compiled" in facts["compiler"]
    assert len(list(tmp_path.iterdir())) == 6


def test_refusals(plain, data, tmp_path, monkeypatch, exact_images):
    with pytest.raises(ValueError, match="images=0: must be an integer of at least 1"):
        c.export(nn.Identity(), plain, data, tmp_path, images=0)
    monkeypatch.setattr(c_source, "LARGEST", 100)
    with pytest.raises(ValueError, match="188 weights are too many for C source code"):
        c.export(nn.Identity(), plain, data, tmp_path, timesteps=T)
    facts = c.export(nn.Identity(), plain, data, tmp_path, timesteps=T, source=False)
    assert list(facts["files"]) == ["snn.npz"] == [path.name for path in tmp_path.iterdir()]
    (tmp_path / "snn.npz").unlink()
    ann = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular"), act(), nn.Flatten(), nn.Linear(32, 3)
    ).eval()
    with pytest.raises(ValueError, match="0: padding_mode='circular'"):
        c.export(nn.Identity(), qcfs.convert(ann, [], neuron=IntegrateFire), data, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing(plain, data, tmp_path, monkeypatch):
    own = example.files.replace

    def replace(path, content):
        if path.suffix == ".c":
            raise OSError("no space left")
        own(path, content)

    monkeypatch.setattr(example.files, "replace", replace)
    with pytest.raises(OSError, match="no space"):
        c.export(nn.Identity(), plain, data, tmp_path, timesteps=T)
    assert not list(tmp_path.iterdir())


@compiled
def test_names_that_would_end_a_comment(data, tmp_path):
    ann = nn.Sequential()
    for name, layer in {"a*/": nn.Conv2d(1, 2, 3), "/*": act(), "flat": nn.Flatten(), "fc": nn.Linear(8, 3)}.items():
        ann.add_module(name, layer)
    snn = qcfs.convert(ann.eval(), [], neuron=IntegrateFire)
    c.export(nn.Identity(), snn, data, tmp_path, timesteps=T)
    found = run(tmp_path, data.test[0][0], T)
    assert golden.difference(found, golden.outcome(integerize(snn, data.calibration), data.test[0][0], T)) is None
    assert list(found[1]) == ["/*"]


@pytest.mark.skipif(not shutil.which("cmake") or not shutil.which("ctest"), reason="no CMake")
@compiled
@pytest.mark.long
def test_the_cmake_project_builds_and_passes_its_test(plain, data, tmp_path):
    c.export(nn.Identity(), plain, data, tmp_path, timesteps=T)
    for command in (
        ["cmake", "-S", ".", "-B", "build"],
        ["cmake", "--build", "build"],
        ["ctest", "--test-dir", "build"],
    ):
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    file = tmp_path / "snn_weights.h"
    file.write_text(file.read_text().replace(" 127,", " 63,"))
    subprocess.run(["cmake", "--build", "build"], cwd=tmp_path, check=True, capture_output=True)
    assert subprocess.run(["ctest", "--test-dir", "build"], cwd=tmp_path, capture_output=True).returncode


def test_results_share_memory_only_when_they_are_not_needed(snn, data):
    program = program_of(integerize(snn, data.calibration), (1, 4, 4))
    offsets, size = places(program)
    origin, needed = sources(program), {}
    for number, step in enumerate(program.steps):
        for source in step.inputs:
            needed[origin[source]] = number
    needed[origin[program.output]] = len(program.steps)
    for one, other in itertools.combinations(offsets, 2):
        apart = (
            offsets[one] + program.steps[one].size <= offsets[other]
            or offsets[other] + program.steps[other].size <= offsets[one]
        )
        in_its_place = needed[one] == other and program.steps[other].kind in ("fire", "times", "requantize", "add")
        assert apart or needed[one] < other or (in_its_place and program.steps[one].size == program.steps[other].size)
    assert size < sum(program.steps[number].size for number in offsets)


@compiled
def test_with_sanitizers(snn, data, tmp_path):
    c.export(nn.Identity(), snn, data, tmp_path, images=2, timesteps=2)
    command = [
        "gcc",
        "-std=c99",
        *STRICT,
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all",
        "snn.c",
        "snn_test.c",
    ]
    if not shutil.which("gcc") or subprocess.run([*command, "-o", "snn"], cwd=tmp_path, capture_output=True).returncode:
        pytest.skip("no sanitizers here")
    assert subprocess.run([tmp_path / "snn"], capture_output=True).stdout == b"0 numbers differ\n"


@pytest.mark.skipif(not shutil.which("arm-none-eabi-gcc"), reason="arm-none-eabi-gcc is not installed")
def test_for_a_microcontroller(snn, data, tmp_path):
    """The library compiles for a Cortex-M4 without warnings; its memory is what the program plans, without a heap."""
    c.export(nn.Identity(), snn, data, tmp_path, images=1, timesteps=1)
    options = ("-mcpu=cortex-m4", "-mthumb", "-std=c99", "-Os", "-ffreestanding", *STRICT)
    subprocess.run(["arm-none-eabi-gcc", *options, "-c", "snn.c"], cwd=tmp_path, check=True)
    table = subprocess.run(
        ["arm-none-eabi-size", "snn.o"], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    text, initialized, zeros = (int(size) for size in table.splitlines()[1].split()[:3])
    program = integer_file.read(tmp_path / "snn.npz")
    neurons = [program.steps[number].size for number in program.neurons().values()]
    least = 4 * places(program)[1] + sum(2 * count + count // 8 for count in neurons)
    assert (initialized, text > 0) == (0, True)
    assert least <= zeros <= 4 * places(program)[1] + sum(4 * count + -(-count // 8) + 8 for count in neurons)
    symbols = subprocess.run(
        ["arm-none-eabi-nm", "-u", "snn.o"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert set(symbols.stdout.split()) - {"U"} <= {"memset", "memcpy", "memmove"}


@compiled
def test_signals(data, tmp_path):
    snn = qcfs.convert(Signals().eval(), [], neuron=IntegrateFire)
    signals = [(x.squeeze(1), target) for x, target in data.test]
    facts = c.export(
        nn.Identity(), snn, SimpleNamespace(calibration=signals, test=signals), tmp_path, images=6, timesteps=T
    )
    assert facts["differing_from_the_golden_model"] == {"torch": 0, "snn.npz": 0, "snn.c": 0}
    assert facts["membrane_bits"].keys() == facts["membrane_bits_bound"].keys() == {"a", "b"}
    assert all(facts["membrane_bits"][path] <= bound for path, bound in facts["membrane_bits_bound"].items())


@compiled
@pytest.mark.parametrize("bits", ["binary", "power_of_two"])
def test_weights_without_multiplications(bits, snn, data, tmp_path):
    facts = c.export(nn.Identity(), snn, data, tmp_path, images=3, timesteps=T, bits=bits)
    assert facts["differing_from_the_golden_model"]["snn.c"] == 0
    allowed = {1} if bits == "binary" else {0, 1, 2, 4, 8, 16, 32, 64}
    for step in integer_file.read(tmp_path / "snn.npz").steps:
        if "weights" in step.arrays:
            assert set(np.abs(step.arrays["weights"].astype(int)).ravel().tolist()) <= allowed


def test_the_file_describes_itself(plain, data, tmp_path):
    c.export(nn.Identity(), plain, data, tmp_path, images=1, timesteps=1, source=False)
    with np.load(tmp_path / "snn.npz") as entries:
        text = bytes(entries["README"]).decode()
    for word in (
        "checksum",
        "example.logits",
        "| fire | threshold, start |",
        "(multiplier · x + 2^(shift−1)) >> shift",
    ):
        assert word in text
