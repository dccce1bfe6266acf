"""Install missing packages in addition to those of this machine, then run scripts/gpu.py; gpu_pack.py copies this file as run.py.

python3 gpu-pack/run.py [arguments of scripts/gpu.py]
"""

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

try:
    from packaging.requirements import Requirement
except ImportError:  # a machine with PyTorch alone; after this import setuptools could not replace distutils
    from pip._vendor.packaging.requirements import Requirement  # type: ignore[assignment]

PACK = Path(__file__).resolve().parent


def lacking() -> list[Path]:
    """Wheels of packages that are not installed, or not in a version that the requirements allow."""
    lines = (PACK / "requirements.txt").read_text(encoding="utf-8").splitlines()
    allowed = {requirement.name.replace("-", "_"): requirement.specifier for requirement in map(Requirement, lines)}
    wheels = []
    for wheel in sorted((PACK / "wheels").glob("*.whl")):
        name = wheel.name.partition("-")[0].lower()
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            wheels.append(wheel)
        else:
            if name in allowed and not allowed[name].contains(version, prereleases=True):
                wheels.append(wheel)
    return wheels


def main() -> None:
    """Install once, then run in the place of this process."""
    site, root = PACK / "site", PACK.parent
    if not site.is_dir() and (wheels := lacking()):
        part = PACK / "site.part"
        options = ["--quiet", "--no-index", "--no-deps", "--upgrade", "--target", str(part)]
        subprocess.run([sys.executable, "-m", "pip", "install", *options, *map(str, wheels)], check=True)
        part.rename(site)
    os.environ.setdefault("SNNCONV_DATA", str(PACK / "data"))
    os.environ["SNNCONV_COMMIT"] = (PACK / "commit").read_text()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(site), str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    os.execv(sys.executable, [sys.executable, str(root / "scripts" / "gpu.py"), *sys.argv[1:]])


if __name__ == "__main__":
    main()
