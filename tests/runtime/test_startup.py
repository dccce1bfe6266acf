"""Nothing slow is imported before it is needed: the package, the help, completion, and the header of a run."""

import contextlib
import functools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from snnconv import cli
from snnconv.commands import COMMANDS
from snnconv.commands.completion import complete, script
from snnconv.commands.help import about
from snnconv.runtime import configurations, home, threads

ROOT = Path(__file__).parents[2]
SLOW = ("torch", "torch._dynamo", "torchvision", "wandb", "hydra", "matplotlib", "sklearn", "spikingjelly")


def loaded_after(program: str, *arguments: str, cwd: Path) -> list[str]:
    """Slow packages that a program has imported at its end; its exit status does not matter."""
    code = f"import atexit, json, sys\natexit.register(lambda: print(json.dumps([m for m in {SLOW} if m in sys.modules])))\n"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code + program, *arguments]
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_import_snnconv_takes_no_time(tmp_path):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert loaded_after("import snnconv", cwd=tmp_path) == []
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (
        after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.3
    )  # of the processor, whoever shares it


@pytest.mark.parametrize(
    "arguments", [["--help"], ["train", "--help"], ["--complete", "train", "method=q"], ["--version"], []]
)
def test_help_and_completion_need_nothing_slow(arguments, tmp_path):
    program = "sys.argv[0] = 'snnconv'\nfrom snnconv.cli import main\nmain()"
    assert loaded_after(program, *arguments, cwd=tmp_path) == []


def test_the_header_comes_before_what_takes_long(tmp_path):
    program = """
import snnconv.runtime.opening as opening
from snnconv.cli import main
def header(*_):
    sys.exit()
opening.header = header
sys.argv[0] = "snnconv"
main()
"""
    assert set(loaded_after(program, "train", "track=wandb", cwd=tmp_path)) <= {"torch", "hydra", "spikingjelly"}


def processor_seconds(process: int) -> float:
    """CPU time that `process` has used (Linux)."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs the CPU time of another process")
@pytest.mark.parametrize("seconds", [0.3, 1.2])
def test_an_early_interruption_ends_in_one_line(seconds, tmp_path):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "snnconv", "train", "experiment=smoke", "track=none"]
    heard = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # tests in the background ignore it
    process = subprocess.Popen(
        command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=heard
    )
    while process.poll() is None and processor_seconds(process.pid) < seconds:
        time.sleep(0.01)  # on a busy machine a clock would interrupt the start of Python itself
    while process.poll() is None:  # some imports of other packages swallow an interruption
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(2)
    output = process.communicate()[0]
    assert process.returncode in (130, -signal.SIGINT)  # the latter if it was in exec(); a shell shows 130 for both
    assert output.splitlines()[-1] == "Interrupted."
    assert "Traceback" not in output
    assert not list(tmp_path.rglob("*.log"))


def test_an_unknown_command_is_answered_with_the_known_ones():
    done = subprocess.run(
        [sys.executable, "-m", "snnconv", "model=mlp"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("snnconv model=mlp: no such command; there are train, evaluate, check")


# completion


def test_train_alone_is_the_demo(monkeypatch, capsys):
    composed = []
    monkeypatch.setattr(cli, "_compose", lambda *call: composed.append(call))
    for module, name in (
        (cli.program, "started_as"),
        (cli.threads, "wait_passively"),
        (cli.allocator, "keep_freed_memory"),
        (cli.home, "provide"),
    ):
        monkeypatch.setattr(module, name, lambda *_: None)
    for arguments in ([], ["seed=1"]):
        cli.run("train", arguments)
    assert composed == [("train", ["experiment=demo"]), ("train", ["seed=1"])]
    assert capsys.readouterr().out.count("No settings given, using experiment=demo") == 1


def test_completion_knows_commands_groups_options_and_settings(tmp_path, monkeypatch):
    assert complete(["", "ev"]) == ["evaluate"]
    assert complete([]) == list(COMMANDS)
    assert complete(["train", "method=potential"]) == ["method=potential_init"]
    assert "fit.epochs=" in complete(["train", "fit.ep"])
    assert {"fit=", "fit."} <= set(complete(["train", "fit"]))
    assert complete(["train", "seed=1"]) == []
    (tmp_path / "runs" / "one").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert complete(["evaluate", "run=runs/"]) == ["run=runs/one/"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
def test_bash_completes_the_word_before_the_cursor(tmp_path):
    lines = [
        f'snnconv() {{ {sys.executable} -m snnconv "$@"; }}',
        script("bash"),
        'COMP_LINE="snnconv train levels=4 method=pot"; COMP_POINT=${#COMP_LINE}; COMP_WORDS=(snnconv train)',
        '_snnconv; echo "${COMPREPLY[@]}"',
    ]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", "\n".join(lines)], env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == "potential_init", done.stderr


# what is set before torch is loaded


def test_threads_wait_passively_unless_the_user_says_otherwise(monkeypatch):
    for name in threads.PASSIVE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    threads.wait_passively()
    assert "GOMP_SPINCOUNT" not in os.environ
    monkeypatch.delenv("OMP_WAIT_POLICY")
    threads.wait_passively()
    assert {name: os.environ[name] for name in threads.PASSIVE} == threads.PASSIVE
    for name in threads.PASSIVE:
        monkeypatch.delenv(name)


@pytest.mark.parametrize("usable", [True, False])
def test_libraries_get_a_folder_where_home_cannot_be_written(usable, tmp_path, monkeypatch):
    for name in (*home.CACHES, "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path if usable else tmp_path / "file" / "home"))
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("MPLBACKEND", "module://a_notebook_that_is_not_here")
    home.provide()
    assert os.environ["MPLBACKEND"] == "agg"
    assert (home.CACHES[0] in os.environ) != usable
    if not usable:
        assert os.access(os.environ["XDG_CACHE_HOME"], os.W_OK)


# the configurations as the help reads them


def test_every_option_of_a_listed_group_begins_with_a_sentence():
    for group in ("method", "data", "experiment"):
        for option in configurations.options(group):
            assert configurations.summary(group, option), f"conf/{group}/{option}.yaml has no comment at its top"


def test_keys_are_those_of_the_yaml_files():
    assert {"levels", "fit.lr", "method.rule.percent", "data.root", "model"} <= configurations.dotted_keys()
    assert "defaults" not in configurations.top_level()
    assert "hydra" not in configurations.top_level()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("levels", "levels: 8"),
        ("fit.lr", "conf/fit/finetune.yaml"),
        ("method", "method=srp"),
        ("train", "snnconv train"),
        ("method.rule.percent", "percent: 99.9"),
    ],
)
def test_help_of_a_setting_a_group_and_a_command(name, text):
    assert text in about(name)


def test_help_of_an_unknown_name_has_the_nearest():
    with pytest.raises(SystemExit, match=r"did you mean .*fit\.epochs"):
        about("fit.epoch")


@pytest.mark.parametrize("key", ["seed", "fit.epochs", "activation.threshold"])
def test_every_place_of_a_setting_is_a_line_of_that_file(key):
    for file, line in configurations.places(key):
        lines = (configurations.CONF / file).read_text(encoding="utf-8").splitlines()
        assert line in [text.strip() for text in lines]
        assert line.startswith(f"{key.rpartition('.')[2]}:")


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"]], ids=" ".join)
def test_a_reader_that_has_seen_enough_ends_the_help_quietly(arguments):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "snnconv", *arguments]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()  # before anything was written
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_a_wrong_network_file_is_told_before_torch_is_imported(tmp_path):
    (tmp_path / "net.py").write_text("class Net(:\n    pass\n")
    start = "from snnconv import cli; cli.main()"
    settings = ("train", "model=custom", "model.path=net.py", "model.name=Net")
    assert "torch" not in loaded_after(start, *settings, cwd=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"net.py"}
