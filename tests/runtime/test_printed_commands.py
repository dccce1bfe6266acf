"""Every command that a message prints works when it is pasted into a shell, and every option that a message names exists."""

import ast
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, OverrideParseException
from omegaconf import OmegaConf

import snnconv
from snnconv.analysis.advice import REMEDIES
from snnconv.runtime import configurations, launch, mistakes, opening, program, stored_config, trust, user_files
from snnconv.runtime.environment import command
from snnconv.runtime.run import Run
from snnconv.runtime.tracking import Tracker
from snnconv.runtime.wandb_tracking import Wandb

PACKAGE = Path(snnconv.__file__).parent
NAMES = (
    "a b", "läuft", "实验1", "it's", 'say "hi"', "a=b", "a,b", "[x]", "#1", "50%", "$HOME", r"back\slash", "${levels}", "!x",
    "{y: z}", "(c)", "~", "*", "null", "12", "-x", "`id`", "a;b", "a&b", "|", "<>", "\\'", "tab\there",
)  # fmt: skip
STUBS = "".join(f"{name}() {{ printf '%s\\0' {name} \"$@\"; }}; " for name in ("python", "snnconv", "wandb"))


def words(pasted: str) -> list[str]:
    """Arguments that a program gets from a command line, or `snnconv` from the overrides that follow it."""
    text = pasted if pasted.startswith(("python ", "snnconv ", "wandb ")) else f"snnconv {pasted}"
    done = subprocess.run(["bash", "-c", STUBS + text], capture_output=True, check=True, text=True, cwd="/")
    assert done.stderr == ""
    return done.stdout.split("\0")[:-1]


def values(pasted: str) -> dict:
    """Values that a run gets from the overrides of a command line, through bash, Hydra's parser and OmegaConf."""
    texts = [word for word in words(pasted) if "=" in word and not word.endswith(".py")]
    parsed = OverridesParser.create().parse_overrides(texts)
    cfg = OmegaConf.create({"levels": 8, **{each.key_or_group: each.value() for each in parsed}})
    return OmegaConf.to_container(cfg, resolve=True)


def message(function, *arguments) -> str:
    """The message of a function that refuses its arguments."""
    with pytest.raises((ValueError, SystemExit)) as caught:
        function(*arguments)
    return str(caught.value)


def between(text: str, before: str, after: str = "") -> str:
    """The command between two parts of a message."""
    return text.partition(before)[2].rpartition(after)[0] if after else text.partition(before)[2]


@pytest.fixture
def started(monkeypatch):
    """started(words): this process was started by these words."""
    return lambda words, arguments=(): (
        program.started_as(words, arguments)
        or monkeypatch.setattr(
            HydraConfig, "get", lambda: SimpleNamespace(job=SimpleNamespace(name=words[-1]), runtime=None)
        )
    )


def _printed(name: str, tmp_path: Path, monkeypatch) -> dict[str, tuple[str, dict]]:
    """Every command or override that a message prints about a folder or file called `name`, and what a run has to get from it."""
    folder, file = f"runs/{name}", f"{name}/net.py"
    ladder = OmegaConf.create({"compress": {"stages": {"a": 1}}, "run": "runs/x"})
    stage = OmegaConf.create({"compress": {"stages": {"a": 1}}, "run": None})
    holds = tmp_path / name
    holds.mkdir(parents=True)
    (holds / "result.json").write_text("{}")
    called = {"_target_": f"{user_files.USER_CODE}.custom", "path": file}
    monkeypatch.setattr(launch, "_is_main", lambda: True)
    escaped = str(holds).replace("${", "\\${")  # as Hydra composes it
    (holds / "net.py").touch()
    run_dir = OmegaConf.create(
        {"hydra": {"run": {"dir": escaped}}, "resume": None, "model": {**called, "path": "net.py"}}
    )
    cfg = OmegaConf.create({"trust": ["b.py"], "model": called, "device": "cpu"})
    monkeypatch.chdir(tmp_path)
    (holds / "last.ckpt").touch()
    kind = stored_config._require_kind
    messages = {
        "an interrupted run": (opening._how_to_go_on(holds, Run(holds, cfg, Tracker())), "To continue: ", ""),
        "a ladder": (message(kind, ladder, Path(folder), "train"), "resume it with: ", ""),
        "a stage": (message(kind, stage, Path(folder, "1_a"), "train"), "resume it with: ", ""),
        "a training": (message(kind, OmegaConf.create({"run": None}), Path(folder), "compress"), "resume it with: ", ""),
        "a folder that holds a run": (message(launch.Folder().on_run_start, run_dir), "continue it with ", ", or choose"),
        "a python file": (message(trust.require_trusted, called), "load it with ", " if you"),
        "a value": (mistakes.message(OverrideParseException(f"data.root={name}", ""), []), "for the shell: ", ""),
    }  # fmt: skip
    of_the_run = {"resume": str(holds), "trust": ["net.py"]}
    expected = [{"resume": name, "trust": ["b.py", file]}, *3 * [{"resume": folder}], of_the_run, {"trust": [file]},
                {"data.root": name}]  # fmt: skip
    if "${" in name:  # refused in words
        assert mistakes.RESERVED in messages.pop("a folder that holds a run")[0]
        expected.pop(4)
    printed = {place: (between(*texts), run) for (place, texts), run in zip(messages.items(), expected, strict=True)}
    going_on = launch.resume_command(Path(folder), [file, "b.py"])
    return {**printed, "resume": (going_on, {"resume": folder, "trust": [file, "b.py"]})}


@pytest.mark.parametrize("name", NAMES)
def test_a_printed_command_arrives_as_it_was_meant(name, tmp_path, monkeypatch, started):
    started(["python", "train"])
    for place, (pasted, expected) in _printed(name, tmp_path, monkeypatch).items():
        assert pasted, place
        assert values(pasted) == {"levels": 8, **expected}, place


@pytest.mark.parametrize("name", NAMES)
def test_the_command_of_a_report_is_what_was_typed(name, started):
    typed = [f"hydra.run.dir={name}", f"model.path='{name}'", name]
    started(["snnconv", "train"], typed)
    assert words(command()) == ["snnconv", "train", *typed]


def test_the_command_for_wandb_names_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tracker = Wandb.__new__(Wandb)
    tracker.run = SimpleNamespace(dir=str(tmp_path / "a b's" / "offline" / "files"))
    assert words(between(tracker._how_to_sync(), "to upload it: ")) == ["wandb", "sync", "a b's/offline"]


def test_a_setting_with_dashes_and_a_list_are_told_as_they_are_typed():
    told = between(message(mistakes.require_words, ["--timesteps=[1, 2]"]), "without dashes: ")
    assert values(told)["timesteps"] == [1, 2]
    error = ConfigCompositionException("Ambiguous value for argument 'levels=4,8'\n…")
    assert values(between(mistakes.message(error, []), "write a list as "))["levels"] == [4, 8]


def test_trust_is_offered_for_packages_of_others_alone(monkeypatch):
    monkeypatch.setattr(trust, "_module_of", lambda target: target.rpartition(".")[0])
    told = message(trust.require_trusted, {"_target_": "theirs.nets.Net"})
    assert values(between(told, "load it with ", " if you"))["trust"] == ["theirs"]
    for target in ("os.system", "subprocess.call", "snnconv.training.loop.fit"):
        assert message(trust.require_trusted, {"_target_": target}).endswith("; not loaded")


def test_one_module_quotes():
    """All others print what `program` makes; reading a command line is something else."""
    users = {path.name for path in PACKAGE.rglob("*.py") if re.search(r"shlex\.(quote|join)", path.read_text())}
    assert users == {"program.py"}


def _messages() -> set[str]:
    """Every text of the package, with … in the place of what is put into it; of docstrings those of commands, which are help."""
    texts = set()
    for path in PACKAGE.rglob("*.py"):
        nodes = [*ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
        docstrings = {node.value for node in nodes if isinstance(node, ast.Expr) and path.parent.name != "commands"}
        for node in nodes:
            if node in docstrings:
                continue
            if isinstance(node, ast.JoinedStr):
                texts.add("".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.add(node.value)
    return texts


def test_every_option_and_setting_that_a_text_names_exists():
    groups, keys, count = configurations.groups(), configurations.dotted_keys(), 0
    for text in _messages():
        for group, option in re.findall(r"(?<![\w.@-])([a-z]+)=\[?([a-z]\w*)\b(?![.(…\[])", text):
            if group in groups:
                assert option in configurations.options(group), text
                count += 1
        for key in re.findall(r"(?<![\w./@])([a-z]+\.[a-z_.]+)=", text):
            if key.partition(".")[0] in groups and not key.endswith(".x"):  # a placeholder
                assert key in keys, text
                count += 1
    assert count > 30


@pytest.mark.parametrize("cause", REMEDIES)
def test_every_remedy_of_an_explanation_is_composed(cause, compose_config):
    for texts in REMEDIES[cause]:
        for text in texts:
            for told in re.findall(r"\(([^)]*)\)", text):
                for part in re.split(r", (?:or )?", told):
                    settings = [word for word in part.split() if "=" in word and "…" not in word]
                    base = ["method=percentile"] if part.startswith("method.") else []
                    compose_config(*base, *settings)
