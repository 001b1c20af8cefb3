"""`etude runs`: selection, order, comparison and removal, on fabricated records."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from etude.records.lock import RunLock
from etude.records.record import FORMAT

Etude = Callable[..., Any]

STUDY = {
    "aaaa00000000": ("rotary", 1e-3, 0, 1.5),
    "aaaa11111111": ("rotary", 1e-2, 1, 1.25),
    "bbbb00000000": ("alibi", 3e-3, 0, 2.5),
    "cccc00000000": ("alibi", 1e-2, 1, None),
}


def fabricate(folder: Path, **changes: Any) -> Path:
    """Writes a record like that of a training, without weights; `None` omits a field."""
    folder.mkdir(parents=True)
    facts = {
        "format": FORMAT,
        "name": folder.parent.name,
        "signature": folder.name + 52 * "0",
        "group": "fedcba987654",
        "label": "",
        "status": "finished",
        "seed": 0,
        "parameters": 1000,
        "total_steps": 20,
        "step": 20,
        "tokens": 40960,
        "seconds": 61.4,
        "data": {"fingerprint": "d" * 64},
        "tokenizer": {"fingerprint": "e" * 64, "size": 65},
        "tags": [],
        "starts": [
            {"time": "2026-01-01", "host": "box", "versions": {"torch": "2.13"}, "source": "abc"}
        ],
    }
    kept = {key: value for key, value in (facts | changes).items() if value is not None}
    (folder / "run.json").write_text(json.dumps(kept))
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three finished runs and a failed one of `nano`, and an older one without config values."""
    root = tmp_path / "experiments"
    for signature, (position, lr, seed, loss) in STUDY.items():
        folder = fabricate(
            root / "nano" / signature,
            label=f"position={position} lr={lr:g} seed={seed}",
            seed=seed,
            status="finished" if loss else "failed",
            step=20 if loss else 7,
            choices={"model/position": position, "model": "nano", "experiment": "nano"},
            config={
                "name": "nano",
                "seed": seed,
                "model.position._target_": f"etude.nn.position.{position.title()}",
                "model.dim": 128,
                "model.bias": False,
                "optimizer.lr": lr,
                "optimizer.betas": [0.9, 0.99],
            },
            final={"val/loss": loss} if loss else None,
            best={"metric": "val/loss", "value": loss, "step": 20} if loss else None,
            tags=["first"] if seed == 0 else [],
        )
        rows = [{"step": s, "tokens": s * 8, "time": s / 2, "val/loss": 3 - s / 20} for s in (1, 2)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    old = fabricate(root / "old" / "dddd00000000", final={"val/loss": 1.75}, label="old")
    (old / "config.yaml").write_text(
        "name: old\nseed: 0\nmodel:\n  position:\n    _target_: etude.nn.position.Rotary\n"
        "    _partial_: true\n  dim: 64\n  max_length: ${data.sequence_length}\n"
        "data:\n  sequence_length: 32\noptimizer:\n  lr: 0.002\nrun:\n  root: secret\n"
    )
    return root


def listed(etude: Etude, root: Path, *words: str) -> list[str]:
    answer = etude("runs", "list", "--root", root, *words)
    assert answer.code == 0, answer.err
    return [line.split()[0] for line in answer.out.splitlines()[1:]]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["optimizer.lr>1e-3"], "a1 b0 c0 d0"),
        (["optimizer.lr<=1e-3"], "a0"),
        (["model.position=rotary"], "a0 a1 d0"),
        (["model/position=rotary", "seed=1"], "a1"),
        (["model/position!=rotary", "seed=1"], "c0"),
        (["nano", "model.position=rotary", "val/loss<1.5"], "a1"),
        (["experiment=nano", "status=failed"], "c0"),
        (["--status", "failed,oom"], "c0"),
        (["label~ALIBI", "val/loss<2.7"], "b0"),
        (["tag=first", "model.dim=128"], "a0 b0"),
        (["model.bias=false", "seed=0"], "a0 b0"),
        (["model.max_length=32"], "d0"),
        (["--sort", "model.bias", "seed=1"], "a1 c0"),
        (["--sort", "val/loss"], "a1 a0 d0 b0 c0"),
        (["--sort", "-optimizer.lr", "--limit", "2"], "a1 c0"),
        (["nano", "--sort", "-best"], "b0 a0 a1 c0"),
        (["nano", "--sort", "best", "--reverse", "seed=0"], "b0 a0"),
    ],
)
def test_list_shows_what_fits_in_the_order_asked(
    etude: Etude, root: Path, words: list[str], expected: str
) -> None:
    found = [run.partition("/")[2] for run in listed(etude, root, *words)]
    assert [signature[0] + signature[-1] for signature in found] == expected.split()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["optimizer.ls>1"],
            "FILTER = 'optimizer.ls': expected a key of at least one run (did you",
        ),
        (["run.root=secret"], "'run.root'"),  # how it is recorded makes no difference
        (["--sort", "val/los"], "--sort = 'val/los': expected a key of at least one run (did you"),
        (["--columns", "run,modle.dim"], "did you mean model.dim?"),
        (["status=finnished"], "did you mean finished?"),
        (["--status", "finnished"], "did you mean finished?"),
        (["nano", "other"], "NAME = 'other': expected at most one name"),
        (["--limit", "0"], "--limit = 0: expected a positive number"),
        (["nanno"], "did you mean nano?"),
        (["=3"], "FILTER = '=3': expected KEY"),
    ],
)
def test_list_refuses(etude: Etude, root: Path, words: list[str], said: str) -> None:
    answer = etude("runs", "list", "--root", root, *words)
    assert answer.code == 2
    assert said in answer.err


def test_nothing_fits(etude: Etude, root: Path) -> None:
    assert "no matching runs" in etude("runs", "list", "--root", root, "seed=7").out


def test_columns_of_ones_own(etude: Etude, root: Path) -> None:
    columns = "run,model.position,optimizer.lr,optimizer.betas,model.bias,val/loss,experiment"
    answer = etude("runs", "list", "--root", root, "--columns", columns, "seed=0")
    head, first, _, old = answer.out.splitlines()
    assert head.split() == columns.split(",")
    assert " ".join(first.split()) == (
        "nano/aaaa00000000 rotary 0.001 [0.9, 0.99] false 1.50000 nano"
    )
    assert old.split() == ["old/dddd00000000", "Rotary", "0.002", "1.75000"]


def test_json_is_complete(etude: Etude, root: Path) -> None:
    found = json.loads(etude("runs", "list", "--root", root, "seed=1", "--json").out)
    assert [run["run"] for run in found] == ["nano/aaaa11111111", "nano/cccc00000000"]
    on_disk = json.loads((root / "nano/aaaa11111111/run.json").read_text())
    assert found[0] == on_disk | {
        "run": "nano/aaaa11111111",
        "path": str(root / "nano/aaaa11111111"),
    }
    words = ["--json", "--columns", "seed,optimizer.lr,val/loss", "--sort", "val/loss"]
    narrow = json.loads(etude("runs", "list", "nano", "--root", root, *words).out)
    assert narrow[0] == {"seed": 1, "optimizer.lr": 0.01, "val/loss": 1.25}
    # a run that did not finish has the latest that it wrote
    assert narrow[-1] == {"seed": 1, "optimizer.lr": 0.01, "val/loss": 2.9}


def test_damaged_records_are_told(etude: Etude, root: Path) -> None:
    (root / "nano/bbbb00000000/run.json").write_text('{"format": 1, "stat')
    fabricate(root / "old" / "eeee00000000", best=5)
    answer = etude("runs", "list", "--root", root)
    assert answer.code == 0
    assert len(answer.out.splitlines()) == 5
    told = (
        "2 damaged runs: nano/bbbb00000000, old/eeee00000000 "
        "(to see the errors, run `etude runs verify`)"
    )
    assert answer.err.strip() == told
    assert json.loads(etude("runs", "list", "--root", root, "--json").out)


def test_no_record_speaks_to_the_terminal(etude: Etude, root: Path) -> None:
    fabricate(root / "nano" / "ffff00000000", label="a\x1b[2Jb\nc")
    out = etude("runs", "list", "--root", root).out
    assert "\x1b" not in out
    assert len(out.splitlines()) == 7


def test_a_table_fits_its_terminal(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from etude.records.listing import Query, print_list

    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("NO_COLOR", "1")
    for columns in (60, 80, 200):
        monkeypatch.setenv("COLUMNS", str(columns))
        print_list(Query(root))
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= columns
        assert ("…" in "".join(lines)) is (columns < 100)
        assert "1.50000" in lines[1]
        if columns > 60:
            assert lines[1].startswith("nano/aaaa00000000 ")  # labels are cut first


# -- show, diff, compare ----------------------------------------------------------------------


def test_show_as_json(etude: Etude, root: Path) -> None:
    found = json.loads(etude("runs", "show", "nano/bbbb", "--root", root, "--json").out)
    assert found["signature"] == "bbbb00000000" + 52 * "0"
    assert found["config"]["optimizer.lr"] == 3e-3
    assert found["checkpoints"] == {}
    old = json.loads(etude("runs", "show", "dddd", "--root", root, "--json").out)
    assert old["config"]["model.max_length"] == 32


def test_diff_shows_what_differs_and_nothing_else(etude: Etude, root: Path) -> None:
    answer = etude("runs", "diff", "aaaa0", "bbbb", "--root", root)
    assert answer.code == 0
    config, metrics = answer.out.split("\n\n")
    assert [line.split() for line in config.splitlines()] == [
        ["config", "nano/aaaa00000000", "nano/bbbb00000000"],
        ["model.position", "rotary", "alibi"],
        ["optimizer.lr", "0.001", "0.003"],
    ]
    assert ["val/loss", "1.50000", "2.50000", "+1.00000"] in map(str.split, metrics.splitlines())


def test_diff_as_json(etude: Etude, root: Path) -> None:
    found = json.loads(etude("runs", "diff", "aaaa1", "dddd", "--root", root, "--json").out)
    assert found["config"] == {
        "name": ["nano", "old"],
        "seed": [1, 0],
        "model.dim": [128, 64],
        "model.bias": [False, None],
        "model.max_length": [None, 32],
        "data.sequence_length": [None, 32],
        "optimizer.lr": [0.01, 0.002],
        "optimizer.betas": [[0.9, 0.99], None],
    }
    assert found["metrics"]["val/loss"] == [1.25, 1.75]
    assert [run["run"] for run in found["runs"]] == ["nano/aaaa11111111", "old/dddd00000000"]


def test_diff_sees_a_file_that_was_edited_in_between(etude: Etude, root: Path) -> None:
    path = root / "nano/bbbb00000000/run.json"
    path.write_text(path.read_text().replace('"alibi"', '"rotary"').replace("Alibi", "Mine"))
    found = json.loads(etude("runs", "diff", "aaaa0", "bbbb", "--root", root, "--json").out)
    target = ["etude.nn.position.Rotary", "etude.nn.position.Mine"]
    assert found["config"]["model.position._target_"] == target


def test_compare_prints_tables_and_draws_a_figure(etude: Etude, root: Path) -> None:
    answer = etude("runs", "compare", "nano", "--root", root)
    assert answer.code == 0, answer.err
    figure = Path(answer.out.splitlines()[-1].removeprefix("figure").strip())
    assert figure.parent == root / "_comparisons"
    assert figure.read_bytes().startswith(b"\x89PNG")
    lines = [line.split() for line in answer.out.splitlines()]
    assert [line[1] for line in lines[1:4]] == [f"nano/{s}" for s in list(STUDY)[:3]]  # finished
    assert ["model.position", "rotary", "rotary", "alibi"] in lines
    assert ["optimizer.lr", "0.001", "0.01", "0.003"] in lines
    assert ["val/loss", "1.50000", "1.25000", "2.50000"] in lines
    again = etude("runs", "compare", "bbbb", "aaaa0", "aaaa1", "--root", root)
    assert again.out.splitlines()[-1] == answer.out.splitlines()[-1]  # the same runs, the same file


def test_compare_of_chosen_runs_to_a_chosen_file(etude: Etude, root: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.png"
    words = ["aaaa0", "cccc", "--output", path, "--x", "tokens", "--log", "xy", "--json"]
    answer = etude("runs", "compare", *words, "--root", root)
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["figure"] == str(path)
    assert path.is_file()


DRAWING = [["compare", "aaaa0", "cccc"], ["plot", "nano"], ["export", "nano"]]


@pytest.mark.parametrize("words", DRAWING)
@pytest.mark.parametrize(
    ("place", "said"),
    [
        (
            "experiments/nano/aaaa00000000/run.json",
            "a path outside the folders of runs, sweeps and papers",
        ),
        (
            "experiments/nano/aaaa00000000/figures/new/mine.png",
            "a path outside the folders of runs, sweeps and papers",
        ),
        ("link.png", "a path outside the folders of runs, sweeps and papers"),
        (
            "experiments/_sweeps/x/sweep.json",
            "a path outside the folders of runs, sweeps and papers",
        ),
        (
            "experiments/_papers/x/result.json",
            "a path outside the folders of runs, sweeps and papers",
        ),
        ("device", "this path exists, but is not a regular file"),
        ("pipe", "this path exists, but is not a regular file"),
        ("folder", "it is a folder"),
        ("", "the path of a file"),
    ],
)
def test_an_output_replaces_nothing_but_files(
    etude: Etude, root: Path, tmp_path: Path, words: list[str], place: str, said: str
) -> None:
    run = root / "nano" / "aaaa00000000" / "run.json"
    before = run.read_bytes()
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.png").symlink_to(run)
    (tmp_path / "device").symlink_to("/dev/null")
    os.mkfifo(tmp_path / "pipe")
    answer = etude("runs", *words, "--root", root, "--output", place and tmp_path / place)
    assert (answer.code, said in answer.err) == (2, True), answer.err
    assert run.read_bytes() == before
    assert Path("/dev/null").is_char_device()
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize("words", DRAWING)
def test_an_output_goes_where_a_link_points_to(
    etude: Etude, root: Path, tmp_path: Path, words: list[str]
) -> None:
    (tmp_path / "link.png").symlink_to("target.png")
    answer = etude("runs", *words, "--root", root, "--output", tmp_path / "link.png")
    assert answer.code == 0, answer.err
    assert (tmp_path / "link.png").is_symlink()
    assert (tmp_path / "target.png").stat().st_size > 50


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nano", "--metric", "val/los"], "did you mean val/loss?"),
        (["nano", "--x", "hours"], "--x = 'hours': expected one of step, tokens, time"),
        (["nano", "--log", "z"], "--log = 'z': expected one of x, y, xy"),
        (["nano", "--output", "a.xyz"], "a.xyz: expected a figure file with one of"),
        (["aaaa0"], "expected at least two runs"),
        (["nanno", "aaaa0"], "did you mean nano?"),
    ],
)
def test_compare_refuses(etude: Etude, root: Path, words: list[str], said: str) -> None:
    answer = etude("runs", "compare", *words, "--root", root)
    assert (answer.code, said in answer.err) == (2, True), answer.err
    assert not (root / "_comparisons").exists()


# -- rm ---------------------------------------------------------------------------------------


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Simulates a user at a terminal who gives the same answer to all questions."""

    def answer(word: str) -> None:
        monkeypatch.setattr("sys.stdin.isatty", lambda: True)
        monkeypatch.setattr("builtins.input", lambda question: word)

    return answer


@pytest.mark.parametrize(("word", "gone"), [("y", True), ("", False), ("n", False)])
def test_rm_asks(
    etude: Etude, root: Path, answering: Callable[[str], None], word: str, gone: bool
) -> None:
    (root / "nano/bbbb00000000/weights").write_bytes(bytes(5_000_000))
    answering(word)
    answer = etude("runs", "rm", "bbbb", "--root", root)
    assert answer.code == 0
    assert "5.0 MB" in answer.out
    assert (root / "nano/bbbb00000000").exists() is not gone
    assert (root / "nano/aaaa00000000").exists()


def test_rm_without_a_terminal_needs_yes(
    etude: Etude, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False)
    answer = etude("runs", "rm", "bbbb", "--root", root)
    assert (answer.code, "--yes" in answer.err) == (2, True)
    assert (root / "nano/bbbb00000000").is_dir()
    assert etude("runs", "rm", "bbbb", "--root", root, "--yes").code == 0
    assert not (root / "nano/bbbb00000000").exists()


def test_rm_of_a_name_with_several_runs_must_be_meant(etude: Etude, root: Path) -> None:
    answer = etude("runs", "rm", "nano", "--root", root, "--yes")
    assert (answer.code, "to remove all of them, add --all" in answer.err) == (2, True)
    assert len(listed(etude, root)) == 5
    assert etude("runs", "rm", "nano", "--all", "--root", root, "--yes").code == 0
    assert sorted(os.listdir(root)) == ["old"]  # the name's folder went with its last run


def test_rm_of_one_of_several_leaves_the_name(etude: Etude, root: Path) -> None:
    assert etude("runs", "rm", "aaaa0", "aaaa00000000", "--root", root, "--yes").code == 0
    assert len(os.listdir(root / "nano")) == 3


def test_rm_does_not_follow_links(etude: Etude, root: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("x")
    (root / "nano/bbbb00000000/link").symlink_to(precious)
    assert etude("runs", "rm", "bbbb", "--root", root, "--yes").code == 0
    assert (precious / "file").read_text() == "x"
    (root / "nano/gggg").symlink_to(root / "nano/aaaa00000000")
    refused = etude("runs", "rm", root / "nano/gggg", "--root", root, "--yes")
    assert (refused.code, "the path is a link" in refused.err) == (2, True)
    other = tmp_path / "other"
    other.mkdir()
    (other / "lnk").symlink_to(root / "nano")
    refused = etude("runs", "rm", "lnk", "--all", "--root", other, "--yes")
    assert (refused.code, "the path is a link" in refused.err) == (2, True)
    assert (root / "nano/aaaa00000000/run.json").is_file()


def test_rm_takes_damaged_records_and_nothing_else(etude: Etude, root: Path) -> None:
    damaged = root / "old/dddd00000000"
    (damaged / "run.json").write_text("{")
    other = root.parent / "thesis"
    other.mkdir()
    (other / "run.json").write_text('{"scripts": {}}')
    refused = etude("runs", "rm", other, "--root", root, "--yes")
    assert (refused.code, "expected the folder of a run" in refused.err) == (2, True)
    assert (other / "run.json").is_file()
    assert etude("runs", "rm", "dddd", "--root", root, "--yes").code == 0
    assert not damaged.exists()


@pytest.fixture
def held(root: Path) -> Iterator[Path]:
    """A run that another process uses."""
    folder = root / "nano/aaaa11111111"
    context = multiprocessing.get_context("fork")
    ready, leave = context.Event(), context.Event()

    def hold() -> None:
        lock = RunLock(folder)
        lock.acquire()
        ready.set()
        leave.wait(60)

    process = context.Process(target=hold)
    process.start()
    assert ready.wait(60)
    yield folder
    leave.set()
    process.join(60)


def test_rm_refuses_what_a_process_holds(etude: Etude, root: Path, held: Path) -> None:
    answer = etude("runs", "rm", "aaaa0", "aaaa1", "--root", root)
    assert answer.code == 3  # before anybody is asked
    assert "nothing was removed" in answer.err
    assert "run.wait" not in answer.err
    assert held.is_dir()
    assert (root / "nano/aaaa00000000").is_dir()  # all or none


def test_rm_locks_what_it_removes(root: Path, held: Path) -> None:
    """Also if the run was locked after the first check."""
    from etude.errors import RunHeld
    from etude.records.remove import remove_records

    with pytest.raises(RunHeld, match="is locked by process"):
        remove_records([root / "nano/aaaa00000000", held], root)
    assert (root / "nano/aaaa00000000").is_dir()
    assert held.is_dir()


# -- the shell --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("etude runs ", "compare diff export group list plot rm show significance verify"),
        ("etude runs c", "compare"),
        ("etude runs show ", "nano old"),
        ("etude runs show aaaa", "aaaa00000000 aaaa11111111"),
        ("etude runs diff aaaa00000000 b", "bbbb00000000"),
        ("etude runs rm nano/a", "nano/aaaa00000000 nano/aaaa11111111"),
        ("etude runs list a", ""),
        ("etude runs list n", "nano"),
        ("etude generate o", "old"),
        ("etude generate old ", ""),
        ("etude convert o", "old"),
        ("etude runs show --root nowhere ", ""),
    ],
)
def test_completion_of_runs(
    etude: Etude, root: Path, monkeypatch: pytest.MonkeyPatch, line: str, expected: str
) -> None:
    monkeypatch.setenv("COMP_LINE", line)
    answer = etude("-sc", "query=bash", cwd=root.parent)
    assert answer.code == 0
    assert sorted(answer.out.split()) == sorted(expected.split())
