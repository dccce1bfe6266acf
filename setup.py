"""Packages of the distribution: `conf/` of the checkout is installed as `snnconv.conf`, the launcher where Hydra finds it.

Everything else is in pyproject.toml.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["snnconv*"]), "snnconv.conf", "hydra_plugins.snnconv_submitit"],
    package_dir={"snnconv.conf": "conf"},
)
