"""Pages for readers: links lead somewhere, README stays short, metadata agree."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("experiments/**/README.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_inside_the_repository_lead_to_files(page):
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    built = [link for link in links if "generated/" in link]  # by `make docs`, which checks these
    missing = [link for link in {*links} - {*built} if "://" not in link and not (page.parent / link).exists()]
    assert missing == []


def test_readme_is_an_entry_page():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_every_study_is_listed():
    index = (ROOT / "experiments" / "README.md").read_text(encoding="utf-8")
    studies = [path.parent.name for path in ROOT.glob("experiments/*/README.md")]
    assert [name for name in studies if f"({name}/README.md)" not in index] == []


def test_commands_in_the_pages_name_scripts_that_exist():
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    named = set(re.findall(r"scripts/(\w+)\.py", text))
    assert len(named) > 8
    assert {name for name in named if not (ROOT / "scripts" / f"{name}.py").is_file()} == set()


def test_metadata_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    assert f"## {project['version']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda path: path.name)
def test_workflows_and_templates_are_yaml(path):
    assert yaml.safe_load(path.read_text(encoding="utf-8"))
