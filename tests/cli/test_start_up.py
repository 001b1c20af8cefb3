"""Fast commands import no heavy modules, and shell completion works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from etude.cli import run
from etude.config.paths import conf_dir

HEAVY = [
    "torch", "pytorch_lightning", "transformers", "datasets", "wandb", "pandas", "matplotlib",
    "scipy", "torchmetrics.functional", "torch._dynamo.utils", "optuna", "pyarrow",
]  # fmt: skip


def imported_by(statement: str, folder: Path) -> set[str]:
    """Returns the heavy modules in a new process after `statement`."""
    lines = [
        "import io, json, sys",
        "sys.stdout = io.StringIO()",
        statement,
        "sys.stdout = sys.__stdout__",
        f"print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))",
    ]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "statement",
    [
        "import etude; dir(etude); etude.__version__",
        "from etude.cli import run; assert run(['--help']) == 0",
        "from etude.cli import run; assert run(['train', '--help']) == 0",
        "from etude.cli import run; assert run(['runs', 'list']) == 0",
        "from etude.cli import run; assert run(['runs', 'show', 'nothing']) == 2",
        "from etude.cli import run; assert run(['runs', 'list', 'val/loss<2', '--sort', 'x']) == 0",
        "from etude.cli import run; assert run(['runs', 'rm', 'nothing']) == 2",
        "from etude.cli import run; assert run(['-sc', 'query=bash']) == 0",
    ],
)
def test_what_answers_at_once(
    statement: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "experiments").mkdir()
    monkeypatch.setenv("COMP_LINE", "etude train model=")
    assert imported_by(statement, tmp_path) == set()


def test_a_config_is_checked_without_torch_from_the_second_time_on(tmp_path: Path) -> None:
    """The first command after an installation imports the classes, and saves what they accept."""
    statement = "from etude.cli import run; assert run(['train', '--cfg', 'job']) == 0"
    imported_by(statement, tmp_path)
    assert imported_by(statement, tmp_path) == set()


TRAINING = {"torch", "pytorch_lightning", "matplotlib"}  # the last draws the curve at the end
BEGUN = "from etude.cli import run; run({!r})"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, write_corpus, tiny) -> tuple[Path, list[str]]:
    """A finished run, trained in another process, and its command."""
    folder = tmp_path_factory.mktemp("trained")
    command = tiny(write_corpus(folder / "corpus.txt"), folder / "experiments")
    earlier = 1_700_000_000
    os.utime(folder / "corpus.txt", (earlier, earlier))
    time.sleep(2.1)  # files that were changed a moment ago are read again
    done = subprocess.run([sys.executable, "-m", "etude", "train", *command], cwd=folder)
    assert done.returncode == 0
    return folder, command


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train"], set()),
        (["train", "model.dimm=4"], {"torch", "pytorch_lightning"}),  # values and files, too
        (["train", "model.heads=x", "data.path=3", "optimizer=adamm"], set()),
        (["train", "seed=1337,1337", "-m"], {"optuna"}),
        (["plan", "--no-measure", "seed=1"], {"torch", "pytorch_lightning"}),
        (["train", "seed=1", "run.samples=0", "trainer.max_steps=5"], TRAINING),
    ],
)
def test_what_each_command_imports(
    trained: tuple[Path, list[str]], words: list[str], expected: set[str]
) -> None:
    folder, command = trained
    asked = [words[0], *command, *words[1:]]
    assert imported_by(BEGUN.format(asked), folder) == expected


def test_generating_imports_no_lightning(trained: tuple[Path, list[str]]) -> None:
    folder, _ = trained
    asked = ["generate", "tiny", "--max-new-tokens", "1"]
    assert imported_by(BEGUN.format(asked), folder) <= {"torch", "pytorch_lightning"}


def test_the_check_above_sees_what_is_imported(tmp_path: Path) -> None:
    assert imported_by("import matplotlib", tmp_path) == {"matplotlib"}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("etude train model=n", {"model=nano"}),
        ("etude train model/position=", {f"model/position={n}" for n in ("alibi", "rotary")}),
        ("etude train seed=1 optimizer.weight", {"optimizer.weight_decay="}),
        ("etude train experiment=de", {"experiment=debug"}),
        ("/usr/bin/etude train experiment=de", {"experiment=debug"}),
        ("etude find-lr optimizer=sch", {"optimizer=schedule_free"}),
        ("etude tr", {"train"}),
        ("etude fi", {"find-lr"}),
        ("etude ", {"train", "runs", "generate"}),
    ],
)
def test_completion(etude, monkeypatch: pytest.MonkeyPatch, line: str, expected: set[str]) -> None:
    monkeypatch.setenv("COMP_LINE", line)
    answer = etude("-sc", "query=bash")
    words = set(answer.out.split())
    assert answer.code == 0
    assert expected <= words
    assert all(word.startswith(line.rpartition(" ")[2]) for word in words)


def test_other_commands_are_left_to_the_shell(etude, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMP_LINE", "etude runs show mod")
    answer = etude("-sc", "query=bash")
    assert (answer.code, answer.out) == (0, "")


def test_completion_is_installed_for_the_command_alone(etude) -> None:
    last = etude("-sc", "install=bash").out.strip().splitlines()[-1]
    assert last.endswith("-F hydra_bash_completion etude")


def test_the_module_is_the_command_too() -> None:
    environment = {key: value for key, value in os.environ.items() if key != "COMP_LINE"}
    done = subprocess.run(
        [sys.executable, "-m", "etude", "--version"],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    assert done.stdout.startswith("etude ")


def test_train_help_lists_every_group_that_hydra_knows_and_ones_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.utils import create_config_search_path

    own = tmp_path / "model" / "mine.yaml"
    own.parent.mkdir()
    own.write_text("layers: 2")
    assert run(["train", "--help", "--config-dir", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    told = dict(line.split(": ", 1) for line in out.split("their files:")[1].split("\n") if line)
    loader = ConfigLoaderImpl(create_config_search_path(str(conf_dir())))
    for group, files in told.items():
        known = set(loader.get_group_options(group))
        assert set(files.split(", ")) == known | ({"mine"} if group == "model" else set())
    assert set(loader.list_groups("")) - {"hydra", "paper"} == {name.split("/")[0] for name in told}
