"""Pack what `make gpu` needs into one folder, for a GPU machine that has PyTorch and no network.

python scripts/gpu_pack.py [--out gpu-pack] [--python 3.12] [--without scipy,scikit-learn,cifar-100-python]

The folder holds wheels/ (packages that snnconv and its tests need, except PyTorch and what comes with it), data/ (the data sets
that the GPU jobs of experiments/queue.yaml name, copied from $SNNCONV_DATA) and run.py.  --without leaves out packages that the
machine has, or data sets.  On that machine, in a copy of the repository with this folder:  python3 gpu-pack/run.py --seconds 540
"""

import argparse
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from jobs.queue_file import read_queue  # noqa: E402

from snnconv.runtime import environment  # noqa: E402

TESTS = ("pytest", "hypothesis", "beartype")  # of the extra `dev`
PRESENT = ("torch", "torchvision", "torchaudio")


def requirements(without: Sequence[str]) -> list[Requirement]:
    """Direct requirements of snnconv and of its tests, but for those that are left out."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    tests = [text for text in project["optional-dependencies"]["dev"] if text.startswith(TESTS)]
    parsed = [Requirement(text) for text in (*project["dependencies"], *tests)]
    return [each for each in parsed if each.name not in (*PRESENT, *without)]


def closure(names: Iterable[str]) -> set[str]:
    """`names` and everything that they require here, directly or not."""
    names, complete = {canonicalize_name(name) for name in names}, set[str]()
    while todo := names - complete:
        for name in todo:
            complete.add(name)
            names |= _required(name)
    return complete


def _required(name: str) -> set[str]:
    try:
        requirements = [Requirement(text) for text in metadata.requires(name) or ()]
    except metadata.PackageNotFoundError:  # as the CUDA packages that torch requires, on a machine without a GPU
        return set()
    wanted = [each for each in requirements if not each.marker or each.marker.evaluate({"extra": ""})]
    return {canonicalize_name(each.name) for each in wanted}


def fetch(names: Iterable[str], wheels: Path, python: str) -> None:
    """Download wheels of the versions that are installed here for another Python; build one where only a source is published."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    for name in sorted(names):
        pinned = f"{name}=={metadata.version(name)}"
        target = ["--only-binary=:all:", "--python-version", python, "--dest", str(wheels)]
        if subprocess.run([*pip, "download", "--no-deps", *target, pinned], stderr=subprocess.DEVNULL).returncode:
            subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(wheels), pinned], check=True)


def copy_data(data: Path, without: Sequence[str]) -> None:
    """Copy the data sets of the GPU jobs to `data`; ValueError if one is missing."""
    source = Path(os.environ.get("SNNCONV_DATA", "data"))
    names = {job.data for job in read_queue(ROOT / "experiments" / "queue.yaml") if job.machine == "gpu"}
    for name in sorted(names - {"", *without}):
        if not (source / name).is_dir():
            raise ValueError(f"{source / name}: no such folder; set SNNCONV_DATA, or leave it out (--without {name})")
        shutil.copytree(source / name, data / name, dirs_exist_ok=True)


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "gpu-pack", help="the folder (default: gpu-pack)")
    parser.add_argument("--python", default="3.12", help="version of Python on the GPU machine (default: %(default)s)")
    parser.add_argument("--without", default="", help="packages and data sets to leave out, separated by commas")
    options = parser.parse_args()
    without, out = [name for name in options.without.split(",") if name], options.out
    wanted = requirements(without)
    try:
        copy_data(out / "data", without)
        fetch(closure(each.name for each in wanted) - closure(PRESENT) - set(without), out / "wheels", options.python)
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        sys.exit(str(error))
    (out / "requirements.txt").write_text("".join(f"{each}\n" for each in wanted))
    (out / "commit").write_text(environment.commit() or "")
    shutil.copy(ROOT / "scripts" / "jobs" / "packed.py", out / "run.py")
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{out}: {size / 2**20:.0f} MiB; on the GPU machine: python3 {out.name}/run.py --seconds 540")


if __name__ == "__main__":
    main()
