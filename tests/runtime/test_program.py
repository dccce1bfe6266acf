"""Commands that are printed work when they are pasted: through a shell, Hydra's parser and OmegaConf."""

import shlex

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from snnconv.runtime import program
from snnconv.runtime.launch import resume_command

PATHS = [
    "runs/läuft", "runs/实验1", "runs/a b", r"runs\back", "it's", 'say "hi"', "a=b", "a,b", "[x]", "{y: z}", "#1", "50%", "$HOME",
    "${levels}", r"\${levels}", "trailing\\", "\\'", "\\\\'", "null", "12", "1e5", "true", "nan", "~", "a:b", "(c)", "!x", "*", "",
    " ", "-x", "é'\\\"${", "1_0", "+3", ".", "..", "/tmp/x.y-z", "a@b", "?", "???",
]  # fmt: skip


def read(command: str, key: str):
    """Value of `key` that a run receives from a command line, which a shell splits first."""
    (text,) = [word for word in shlex.split(command) if word.startswith(f"{key}=")]
    (override,) = OverridesParser.create().parse_overrides([text])
    cfg = OmegaConf.create({"levels": 8, key: override.value()})
    return OmegaConf.to_container(cfg, resolve=True)[key]


def check(path: str) -> None:
    command = shlex.join(
        ["python", "train.py", program.override("resume", path), program.override("trust", [path, "b.py"])]
    )
    assert read(command, "resume") == path
    assert read(command, "trust") == [path, "b.py"]


@pytest.mark.parametrize("path", PATHS)
def test_any_path_arrives(path):
    if path == "???":
        pytest.skip("OmegaConf's own word for a value that is missing")
    check(path)


@given(
    path=st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=8).filter(lambda p: p != "???")
)
def test_any_text_arrives(path):
    check(path)


@given(path=st.text("\\'\"${}a [],=", max_size=10))
def test_any_mixture_of_what_is_special_arrives(path):
    check(path)


def test_how_to_go_on_is_what_hydra_composes(tmp_path, monkeypatch):
    program_words = ["python", "train.py"]
    monkeypatch.setattr(program, "_started", program_words)
    folder = tmp_path / "läuft [1], 'so' #$x"
    _, script, *overrides = shlex.split(resume_command(folder, ["my net.py"]))
    assert script == "train.py"
    (tmp_path / "config.yaml").write_text("resume: null\ntrust: []\n")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        cfg = compose("config", overrides)
    assert (cfg.resume, list(cfg.trust)) == (str(folder), ["my net.py"])


@pytest.mark.parametrize(
    ("started", "expected"),
    [
        (["python", "train.py"], "python scripts/evaluate.py"),
        (["python", "/a b/scripts/check.py"], "python '/a b/scripts/evaluate.py'"),
        (["snnconv", "train"], "snnconv evaluate"),
        (["python", "-m", "snnconv", "train"], "python -m snnconv evaluate"),
        ([], "snnconv evaluate"),
    ],
)
def test_another_command_is_started_as_this_one_was(started, expected, monkeypatch):
    monkeypatch.setattr(program, "_started", started)
    assert program.command_for("evaluate") == expected
    assert program.example("evaluate", "run=runs/…") == f"{expected} run=runs/…"
