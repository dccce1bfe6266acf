"""Packages of the distribution: `conf/` and `zoo/` of the checkout are installed in `snnconv`, the launcher where Hydra finds it.

Everything else is in pyproject.toml.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["snnconv*"]), "snnconv.conf", "snnconv.zoo", "hydra_plugins.snnconv_submitit"],
    package_dir={"snnconv.conf": "conf", "snnconv.zoo": "zoo"},
)
