"""No file of a run or a sweep contains values of environment variables or passwords in URLs."""

from __future__ import annotations

import gzip
import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from read_views import BOTH

from etude.config.checks import check
from etude.config.compose import compose
from etude.records.record import Record
from etude.records.signature import group, signature

SECRETS = {
    "A_NOTE": "note-5cc5b3b0",
    "A_TAG": "tag-77aa'\"8b2c",
    "A_VARIABLE": "vars-e0a1d7\nsecond line",
    "AN_ENTITY": "entity-9d2f",
    "A_PROJECT": "project-41ab",
    "A_PROMPT": "the quick brown",
}
PASSWORDS = ("pw-31c9f0", "pw-a7+b@d4")
ROOT_PART = "root-f00dcafe"


def contents(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """Yields the bytes of every file, and the content of compressed files."""
    for path in folder.rglob("*"):
        if not path.is_file() or path.is_symlink():
            continue
        data = path.read_bytes()
        yield path, data
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    yield path / name, archive.read(name)
        elif data[:2] == b"\x1f\x8b":
            yield path, gzip.decompress(data)


def spelled(secret: str) -> set[bytes]:
    return {secret.encode(), repr(secret)[1:-1].encode(), json.dumps(secret)[1:-1].encode()}


def leaks(folder: Path) -> list[tuple[str, str]]:
    secrets = [*SECRETS.values(), *PASSWORDS, ROOT_PART]
    return [
        (str(path.relative_to(folder)), secret)
        for path, data in contents(folder)
        for secret in secrets
        if any(spelling in data for spelling in spelled(secret))
    ]


@pytest.fixture
def secret_words(
    tiny: Any, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """Overrides of a run with a secret in every possible setting."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("A_ROOT", str(tmp_path / ROOT_PART))
    monkeypatch.setenv("A_CACHE", str(tmp_path / ROOT_PART / "cache"))
    one, other = (f"https://user:{password}@host/x" for password in PASSWORDS)
    words = [word for word in tiny(corpus, tmp_path) if not word.startswith("run.root")]
    return [
        *words,
        "run.root=${oc.env:A_ROOT}/experiments",
        "run.cache=${oc.env:A_CACHE}",
        f"run.notes='${{oc.env:A_NOTE}} {one}'",
        f"run.tags=['${{oc.env:A_TAG}}','{other}']",
        "run.sample_prompt=${oc.env:A_PROMPT}",
        "vars.x=${oc.env:A_VARIABLE}",
        "+vars.y=${vars.x}",
        f"+vars.z='{one}'",
        "+vars.e=env",
        "+vars.hidden='${oc.${vars.e}:A_NOTE}'",
        BOTH,
        "logger.wandb.entity=${oc.env:AN_ENTITY}",
        "logger.wandb.project=${oc.env:A_PROJECT}",
    ]


def test_a_run(etude: Any, secret_words: list[str], tmp_path: Path) -> None:
    answer = etude("train", *secret_words)
    assert answer.code == 0, answer.err
    root = tmp_path / ROOT_PART
    (path,) = (root / "experiments" / "tiny").iterdir()
    assert leaks(root) == []
    assert "***@host" in (path / "run.json").read_text()
    info = Record.read(path).info
    assert info["notes"] == "${oc.env:A_NOTE} https://user:***@host/x"
    assert info["tags"] == ["${oc.env:A_TAG}", "https://user:***@host/x"]
    assert "${oc.env:A_ROOT}/experiments/tiny" in (path / "log.txt").read_text()
    assert (path / "samples/step-00000010.txt").read_text().startswith("${oc.env:A_PROMPT}")
    assert "run.notes=${oc.env:A_NOTE}" in (path / "overrides.yaml").read_text().replace("'", "")
    assert str(root) in answer.out  # a person is told where the record is
    assert 'wandb sync --entity "$AN_ENTITY" --project "$A_PROJECT"' in answer.out


def test_a_failure_with_its_traceback(
    etude: Any, secret_words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from etude.tasks.causal_lm import CausalLM

    def failing(self: Any, *arguments: Any) -> None:
        raise ValueError(f"{os.environ['A_TAG']!r} at http://me:{PASSWORDS[0]}@host")

    monkeypatch.setattr(CausalLM, "training_step", failing)
    words = [word for word in secret_words if "logger" not in word and word != BOTH]
    assert etude("train", *words).code == 1
    root = tmp_path / ROOT_PART
    (path,) = (root / "experiments" / "tiny").iterdir()
    assert leaks(root) == []
    assert "${oc.env:A_TAG}" in Record.read(path).info["error"]
    log = (path / "log.txt").read_text()
    assert "Traceback" in log
    assert "ValueError: " in log


def test_a_sweep_and_its_refused_job(etude: Any, secret_words: list[str], tmp_path: Path) -> None:
    words = [word for word in secret_words if "logger" not in word and word != BOTH]
    words += [f"data.path=https://user:{PASSWORDS[0]}@host/x,nowhere.txt", "seed=0,1"]
    answer = etude("train", "-m", *[w for w in words if not w.startswith("data.path=/")])
    assert answer.code == 2  # each job's path is refused
    root = tmp_path / ROOT_PART
    (folder,) = (root / "experiments" / "_sweeps").iterdir()
    told = json.loads((folder / "sweep.json").read_text())
    assert [job["status"] for job in told["jobs"]] == ["refused"] * 4
    labels = [job["label"].split() for job in told["jobs"]]
    assert [label[-2:] for label in labels] == [
        [f"path={path}", f"seed={seed}"]
        for path in ("https://user:***@host/x", "nowhere.txt")
        for seed in (0, 1)
    ]
    assert "x=${oc.env:A_VARIABLE}" in labels[0]
    assert leaks(root) == []


def test_a_finished_sweep(etude: Any, secret_words: list[str], tmp_path: Path) -> None:
    """The output of the jobs' processes is saved, too."""
    words = [word for word in secret_words if "logger" not in word and word != BOTH]
    answer = etude("train", "-m", *words, "seed=0,1")
    assert answer.code == 0, answer.out + answer.err
    root = tmp_path / ROOT_PART
    (folder,) = (root / "experiments" / "_sweeps").iterdir()
    logs = [path.read_text() for path in (folder / "logs").iterdir()]
    assert len(logs) == 2
    assert all("sample:" in log for log in logs)
    assert leaks(root) == []


def test_two_passwords_one_signature() -> None:
    def names(password: str) -> tuple[str, str]:
        path = f"data.path=https://me:{password}@host/x"
        checked = check(compose(["experiment=shakespeare_char", path]))
        assert checked.nodes["data"].arguments["path"] == path.partition("=")[2]  # the true one
        return signature(checked.identity), group(checked.identity)

    assert names(PASSWORDS[0]) == names("another")


def test_the_environment_does_not_reach_the_signature_by_another_name(
    monkeypatch: pytest.MonkeyPatch, etude: Any, tmp_path: Path
) -> None:
    """A composed resolver name, and a variable that is not set."""
    monkeypatch.setenv("PLACE", "somewhere")
    for path in ("'${oc.${vars.e}:PLACE}'", "${oc.env:NOT_SET_AT_ALL,x}"):
        words = ["experiment=shakespeare_char", "vars.e=env", f"data.path={path}"]
        answer = etude("train", *words, f"run.root={tmp_path / 'root'}")
        assert answer.code == 2
        assert "expected a value that does not come from the environment" in answer.err
