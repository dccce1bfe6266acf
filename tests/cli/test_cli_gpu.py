"""`scripts/gpu.py`, rehearsed on the CPU, and the folder that `scripts/gpu_pack.py` prepares."""

import json
import runpy
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from command import ROOT, environment, fail, run, succeed

pytestmark = pytest.mark.cli

GPU, PACK = ROOT / "scripts" / "gpu.py", ROOT / "scripts" / "gpu_pack.py"
JOBS = [job["name"] for job in yaml.safe_load((ROOT / "experiments" / "queue.yaml").read_text())["jobs"]
        if job.get("machine") == "gpu"]  # fmt: skip


def collected(cwd: Path) -> list[str]:
    """The jobs whose results a rehearsal has collected."""
    files = (cwd / "there" / "results" / "gpu").glob("*.jsonl")
    return [json.loads(line)["job"] for path in files for line in path.read_text().splitlines()]


@pytest.mark.long
def test_a_rehearsal_saves_each_job_and_resumes(tmp_path: Path):
    rehearsal = ("--tiny", "there", "--only", "gpu_vgg16_fast_seed0,gpu_test_set", "--seconds")
    succeed(GPU, *rehearsal, "60", cwd=tmp_path, timeout=300)
    assert "gpu_test_set" not in collected(tmp_path)  # its two minutes did not fit
    text = succeed(GPU, *rehearsal, "400", cwd=tmp_path, timeout=600)
    assert sorted(collected(tmp_path)) == ["gpu_test_set", "gpu_vgg16_fast_seed0"]
    assert text.count(" done ") == 2
    again = succeed(GPU, *rehearsal, "400", cwd=tmp_path)
    assert "waiting" not in again
    assert len(collected(tmp_path)) == 2


@pytest.mark.slow
def test_every_job_rehearsed(tmp_path: Path):
    succeed(GPU, "--tiny", "there", "--seconds", "3000", cwd=tmp_path, timeout=3000)
    assert sorted(collected(tmp_path)) == sorted(JOBS)


def test_the_list_and_a_machine_without_a_gpu(tmp_path: Path):
    text = succeed(GPU, "--list", cwd=tmp_path)
    positions = [
        text.index(name) for name in ("gpu_tests", "gpu_vgg16_fast_seed0", "gpu_test_set", "gpu_resnet18_fast_seed0")
    ]
    assert positions == sorted(positions)
    assert not list(tmp_path.iterdir())
    env = environment(CUDA_VISIBLE_DEVICES="", SNNCONV_DATA=str(tmp_path))
    assert text.count("no data") + succeed(GPU, "--list", cwd=tmp_path, env=env).count("no data") >= 9
    assert "finds no CUDA device; to rehearse: python scripts/gpu.py --tiny DIR" in fail(GPU, cwd=tmp_path, env=env)
    assert "--only nothing: not in " in fail(GPU, "--tiny", "there", "--only", "nothing", cwd=tmp_path)


def test_the_pack_holds_what_the_machine_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Every package that ours need, but none that comes with PyTorch."""
    module = runpy.run_path(str(PACK))
    fetched: list[str] = []
    monkeypatch.setitem(module["main"].__globals__, "fetch", lambda names, wheels, python: fetched.extend(names))
    monkeypatch.setattr(
        "sys.argv", ["gpu_pack.py", "--out", str(tmp_path / "pack"), "--without", "scipy,cifar-100-python"]
    )
    (tmp_path / "data" / "cifar-10-batches-py").mkdir(parents=True)
    (tmp_path / "data" / "cifar-10-batches-py" / "test_batch").write_bytes(b"images")
    monkeypatch.setenv("SNNCONV_DATA", str(tmp_path / "data"))
    module["main"]()
    assert {"spikingjelly", "hydra-core", "omegaconf", "pytest", "antlr4-python3-runtime"} <= set(fetched)
    assert not {"torch", "torchvision", "numpy", "scipy", "sympy"} & set(fetched)
    assert all(metadata.version(name) for name in fetched)
    assert (tmp_path / "pack" / "data" / "cifar-10-batches-py" / "test_batch").read_bytes() == b"images"
    assert "torch>=" not in (tmp_path / "pack" / "requirements.txt").read_text().splitlines()
    packed = runpy.run_path(str(tmp_path / "pack" / "run.py"))
    for name in (
        "rich-1.0-py3-none-any.whl",
        "spikingjelly-2.0.0-py3-none-any.whl",
        "nothing_like_it-1-py3-none-any.whl",
    ):
        (tmp_path / "pack" / "wheels").mkdir(exist_ok=True)
        (tmp_path / "pack" / "wheels" / name).touch()
    assert [wheel.name for wheel in packed["lacking"]()] == ["nothing_like_it-1-py3-none-any.whl"]
    with (tmp_path / "pack" / "requirements.txt").open("a") as stream:
        stream.write("rich>=1000\n")
    assert len(packed["lacking"]()) == 2

    monkeypatch.setenv("SNNCONV_DATA", str(tmp_path))
    done = run(PACK, "--out", str(tmp_path / "other"), cwd=tmp_path, env=environment(SNNCONV_DATA=str(tmp_path)))
    assert (done.status, "cifar-10-batches-py: no such folder; set SNNCONV_DATA" in done.output) == (1, True)
