"""Packages of the distribution: `conf/` of the checkout is installed as `snnconv.conf`.  Everything else is in pyproject.toml."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["snnconv*"]), "snnconv.conf"], package_dir={"snnconv.conf": "conf"})
