"""Bad input of every kind ends as documented: an exit code, a few lines, records as they were.

`ETUDE_FUZZ_SECONDS` (600) is how long the slow test draws cases. `ETUDE_FUZZ_SEED` says which: the
suite draws the same ones each time, `random` or another number looks for new causes.
`ETUDE_FUZZ_CASE` runs that case of the seed alone.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from generators import override, plain, users_module
from judging import Failure, Failures, judged
from mutations import mutate

from etude.errors import RequestError
from older_records import with_hashes_that_fit

SECONDS = float(os.environ.get("ETUDE_FUZZ_SECONDS", "600"))
ROOT = "experiments"
KEPT_OUT = (
    "run.root",
    "run.cache",
    "data.workers",
    "trainer.devices",
    "trainer.num_nodes",
    "run.wait",
)
"""Keys whose values write elsewhere, start processes or wait."""
PAPERS = ["adder", "alibi", "names", "scaling", "shakespeare_char"]
PLACES = {
    "--root": [
        "nosuch",
        "",
        "experiments/tiny",
        "released/config.json",
        "\u00e9",
        "\x00",
        "a" * 300,
    ],
    "--files": ["nosuch", "", "released"],
    "--config-dir": ["nosuch", "", "released", "experiments"],
    "--output": ["nosuch/out", "", "released", "out.csv", "out.png", "out"],
    "--jobs": ["0", "-1", "1", "a", "nan", "9" * 30],
}
"""Values of options that name places in which a command may write, or start processes."""


@dataclass(frozen=True)
class Ground:
    """What the cases begin from.

    Attributes:
        folder: with `experiments/` (finished runs, a paused one, a sweep) and released folders.
        base: overrides of the finished run.
        keys: of the composed configs.
        groups: and their files.
    """

    folder: Path
    base: list[str]
    keys: list[str]
    groups: dict[str, list[str]]
    records: dict[str, str]


@pytest.fixture(scope="module")
def offline() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "WANDB_DISABLED"):
            patch.setenv(name, "1")
        patch.setenv("WANDB_MODE", "disabled")
        yield


@pytest.fixture(scope="module")
def ground(
    offline: None,
    tmp_path_factory: pytest.TempPathFactory,
    write_corpus: Callable[..., Path],
    etude: Callable[..., Any],
    tiny: Callable[..., list[str]],
    toy: Callable[..., list[str]],
) -> Ground:
    folder = tmp_path_factory.mktemp("ground")
    corpus = write_corpus(tmp_path_factory.mktemp("corpus") / "corpus.txt")
    short = ["model.bias=true", "trainer.max_steps=2", "run.samples=0", "schedule.warmup_steps=1"]
    base = tiny(corpus, Path(ROOT), *short, "trainer.val_check_interval=1")
    labelled = toy("classification", Path(ROOT), "trainer.max_steps=2", "schedule.warmup_steps=1")
    for words in (
        ["train", *base],
        ["train", *base, "seed=2"],
        ["train", *base, "seed=3", "run.stop_at_step=1"],
        ["train", *labelled],
        ["train", "-m", *base, "name=swept", "seed=4,5"],
    ):
        answer = etude(*words, cwd=folder)
        assert answer.code == 0, answer.err
    runs = sorted((folder / ROOT / "tiny").iterdir())
    seeds = {f"seed {_seed(run)}": f"{ROOT}/tiny/{run.name}" for run in runs}
    (labels,) = (folder / ROOT / "classification").iterdir()
    records = seeds | {"labels": f"{ROOT}/classification/{labels.name}"}
    first = records[f"seed {min(_seed(run) for run in runs if _seed(run) > 3)}"]
    records["first"] = first
    for words in (
        ["evaluate", records["labels"]],
        ["convert", first, "released"],
    ):
        answer = etude(*words, cwd=folder)
        assert answer.code == 0, answer.err
    _write_gguf(folder / "llama.gguf")
    return Ground(folder, base, _keys(base), _groups(), records)


def _seed(run: Path) -> int:

    return int(json.loads((run / "run.json").read_text())["seed"])


def _write_gguf(file: Path) -> None:
    sys.path.insert(0, str(Path(__file__).parent.parent / "interop"))
    try:
        import folders
        import ggufs
        import zoo
    finally:
        sys.path.pop(0)
    tokenizer = folders.bpe()
    model = zoo.randomised(zoo.llama(vocab_size=tokenizer.vocab_size))
    ggufs.write_gguf(file, model, tokenizer=tokenizer)


def _keys(base: Sequence[str]) -> list[str]:
    from omegaconf import OmegaConf

    from etude.config.compose import compose

    def walk(value: Any, path: str) -> Iterator[str]:
        if path:
            yield path
        if isinstance(value, dict):
            for key, below in value.items():
                yield from walk(below, f"{path}.{key}" if path else str(key))

    found: set[str] = set()
    for words in (base, ["experiment=tagging"], ["experiment=translate_en_zh"], ["model=llama_1b"]):
        found |= set(walk(OmegaConf.to_container(compose(words)), ""))
    return sorted(key for key in found if key not in KEPT_OUT)


def _groups() -> dict[str, list[str]]:
    from etude.config.paths import conf_dir, groups

    return groups(conf_dir())


# -- the kinds of cases -------------------------------------------------------------------------


def _of_overrides(draw: random.Random, ground: Ground, folder: Path, etude: Any) -> Failure | None:
    words = [override(draw, ground.keys, ground.groups) for _ in range(draw.choice([1, 1, 2, 3]))]
    command = draw.choices(
        [
            ["plan"], ["train", "--cfg", "job"], ["plan", "-m"], ["data", "show"], ["train"],
            ["find-lr", "--steps", "2"], ["train", "-m"],
        ],
        [18, 6, 8, 4, 6, 3, 1],
    )[0]  # fmt: skip
    base = ground.base if draw.random() < 0.85 else []
    if command[0] in ("train", "find-lr") and "--cfg" not in command:
        base = ground.base
        words += ["trainer.max_steps=1", "schedule.warmup_steps=0", "trainer.accelerator=cpu"]
    keeps = None if command == ["train", "-m"] else folder / ROOT  # a sweep notes what is refused
    return judged(etude, [*command, *base, *words], folder, keeps=keeps)


def _commands(draw: random.Random, ground: Ground, run: str) -> tuple[list[str], bool]:
    """Returns a command that reads the run, and whether it must leave all records unchanged."""
    other = draw.choice(sorted(ground.records.values()))
    reading = [
        ["runs", "list"], ["runs", "list", "seed>0", "--json"], ["runs", "show", run],
        ["runs", "list", "--sort", "val/loss", "--columns", "best,seconds,tag,optimizer.lr"],
        ["runs", "show", run, "--json"], ["runs", "diff", run, other],
        ["runs", "diff", other, run, "--json"], ["runs", "verify"], ["runs", "verify", run],
        ["runs", "group", run, other], ["runs", "export", run, other],
        ["generate", run, "--max-new-tokens", "3", "--prompt", "the"],
        ["predict", run, "--text", "the cats ran"], ["plan", *ground.base],
        ["plan", "-m", *ground.base, "seed=1,2"], ["convert", run, "dest"],
    ]  # fmt: skip
    writing = [
        ["runs", "compare", run, other], ["runs", "plot", run, other], ["evaluate", run],
        ["runs", "significance", run, other], ["train", *ground.base, "name=swept", "seed=4"],
        ["train", *ground.base, "seed=3"], ["train", *ground.base, "seed=3", "run.on_error=stop"],
        ["train", *ground.base, "seed=9", f"init_from={run}"],
        ["train", *ground.base, "seed=3", "run.on_existing=again"],
    ]  # fmt: skip
    if draw.random() < 0.7:
        return draw.choice(reading), True
    return draw.choice(writing), False


def _of_records(draw: random.Random, ground: Ground, folder: Path, etude: Any) -> Failure | None:
    files = [file for file in sorted((folder / ROOT).rglob("*")) if file.is_file()]
    chosen = [file for file in files if file.name not in (".lock", "log.txt")]
    chosen = [file for file in chosen if file.suffix != ".png"]
    names = sorted({file.name for file in chosen})
    name = draw.choice(names)  # each kind of file as often
    file = draw.choice([file for file in chosen if file.name == name])
    note = mutate(draw, file)
    within = next((r for r in ground.records.values() if (folder / r) in file.parents), None)
    run = within or draw.choice(sorted(ground.records.values()))
    if within is not None and draw.random() < 0.6:
        note += _with_hashes(folder / within, file)
    words, reads = _commands(draw, ground, run)
    return judged(etude, words, folder, f"{file.relative_to(folder)}: {note}", folder / ROOT, reads)


def _with_hashes(record: Path, file: Path) -> str:
    """Updates the hashes for a changed file, as an attacker would."""
    with suppress(RequestError, OSError, ValueError, AttributeError):
        if file.suffix == ".json" and file.name not in ("run.json", "tokenizer.json"):
            content = json.loads(file.read_text())
            if isinstance(content, dict):
                content.pop("seal", None)
            file.write_text(json.dumps(content))
        with_hashes_that_fit(record)
        return ", its hash too"
    return ""


def _of_released(draw: random.Random, ground: Ground, folder: Path, etude: Any) -> Failure | None:
    source = draw.choice(["released", "llama.gguf"])
    files = sorted((folder / source).iterdir()) if source == "released" else [folder / source]
    note = mutate(draw, draw.choice([file for file in files if file.is_file()]))
    words = draw.choice(
        [
            ["generate", "--pretrained", source, "--max-new-tokens", "3", "--prompt", "a"],
            ["convert", source, "dest"],
            ["train", *ground.base, "trainer.max_steps=1", f"init_from={source}"],
            ["plan", *ground.base, f"init_from={source}"],
        ]
    )
    return judged(etude, words, folder, f"{source}: {note}", folder / ROOT)


def _of_users(draw: random.Random, ground: Ground, folder: Path, etude: Any) -> Failure | None:
    source, slot, name = users_module(draw)
    module = f"mine_{draw.randrange(10**9)}"
    (folder / f"{module}.py").write_text(source, encoding="utf-8")
    words = [f"extensions=[{module}]", f"++{slot}._target_={module}.{name}"]
    command = draw.choice([["plan"], ["train"], ["train"], ["train", "--cfg", "job"]])
    sys.path.insert(0, str(folder))
    try:
        return judged(etude, [*command, *ground.base, *words], folder, source, folder / ROOT)
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop(module, None)


def _of_arguments(draw: random.Random, ground: Ground, folder: Path, etude: Any) -> Failure | None:
    run, other = draw.choices(sorted(ground.records.values()), k=2)
    commands = [
        ["train", *ground.base], ["plan", *ground.base], ["find-lr", *ground.base, "--steps", "1"],
        ["data", "show", *ground.base], ["generate", run], ["generate", "--pretrained", "released"],
        ["predict", run, "--text", "a"], ["evaluate", run], ["convert", run, "dest"],
        ["runs", "list"], ["runs", "show", run], ["runs", "diff", run, other],
        ["runs", "compare", run, other], ["runs", "group", run, other], ["runs", "rm", run],
        ["runs", "significance", run, other], ["runs", "plot", run, other], ["reproduce"],
        ["runs", "export", run, other], ["runs", "verify", run],
        ["reproduce", draw.choice(PAPERS), "--check"],
    ]  # fmt: skip
    words = list(draw.choice(commands))
    name = words[: 2 if words[0] in ("runs", "data") else 1]
    help_ = etude(*name, "--help").out
    options = re.findall(r"\[(?:-\w\|)?(--(?!debug)[\w-]+)( [\w\[])?", help_)
    assert options, help_
    for _ in range(draw.choice([0, 1, 1, 2])):
        option, takes = draw.choice(options)
        word = plain(draw) if option not in PLACES else draw.choice(PLACES[option])
        words += draw.choice([[option, word], [f"{option}={word}"]]) if takes else [option]
    if draw.random() < 0.4:  # instead of a positional argument, or beside them
        at = draw.randrange(len(name), len(words) + 1)
        word = draw.choice([plain(draw), *PLACES["--root"]])
        words[at : at + draw.randrange(2)] = [word.lstrip("/.")]  # not outside the folder
    if words[0] == "reproduce" and "--check" not in words:
        words.append("--check")  # measuring takes minutes
    return judged(etude, words, folder, keeps=folder / ROOT)


KINDS = {_of_overrides: 40, _of_records: 30, _of_arguments: 15, _of_released: 10, _of_users: 10}


def _one(seed: str, number: int, ground: Ground, scratch: Path, etude: Any) -> Failure | None:
    draw = random.Random(f"{seed}/{number}")
    folder = scratch / "case"
    shutil.copytree(ground.folder, folder, symlinks=True)
    try:
        (kind,) = draw.choices(list(KINDS), list(KINDS.values()))
        return kind(draw, ground, folder, etude)
    finally:
        shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 600)
def test_no_drawn_input_ends_in_another_way_than_documented(
    ground: Ground, tmp_path: Path, etude: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    seed = os.environ.get("ETUDE_FUZZ_SEED", "0")
    if seed == "random":
        seed = str(random.randrange(10**9))
    only = os.environ.get("ETUDE_FUZZ_CASE")
    failures, number, began = Failures(), 0, time.monotonic()
    while time.monotonic() - began < SECONDS:
        case = int(only or number)
        failure = _one(seed, case, ground, tmp_path, etude)
        number += 1
        if failure:
            again = f"ETUDE_FUZZ_SEED={seed} ETUDE_FUZZ_CASE={case}"
            failures.add(Failure(failure.cause, failure.words, f"{failure.detail}\n  {again}"))
            told = (
                f"{failure.cause}\n  etude {' '.join(failure.words)}\n  {failure.detail}\n  {again}"
            )
            print(f"[{number}] {told}", file=sys.__stderr__, flush=True)
        if only:
            break
    print(f"seed {seed}: {number} cases in {time.monotonic() - began:.0f} s\n{failures}")
    assert not failures.smallest, f"seed {seed}, {number} cases\n\n{failures}"
