"""`docs/results.md`, made of what `applications.py` found."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etude.analysis.statistics import interval

INTRODUCTION = """\
# Results

The applications on real data, each beside a plain method on the same rows. Written by
`make results` from the files in `docs/results/`. Rows whose text stands in two splits, in any case
and however spaced, were left out of the earlier one first; the checkpoint was chosen on validation;
test was looked at once a run, but where it is said. Means are over the seeds; brackets hold a
bootstrap interval of the mean at 95 %, which of three values covers it three times in four
([sweeps.md](sweeps.md)). Times are those of a run as it went, on the threads that are stated, with
others beside it.
"""


@dataclass(frozen=True)
class Line:
    """A line of the first table.

    Args:
        what: the application.
        metric: of test.
        ours: a value a seed.
        beside: the plain method, and
        theirs: its value.
        target: what was aimed at, and
        met: whether our mean meets it; None where nothing was aimed at.
    """

    what: str
    metric: str
    ours: Sequence[float]
    beside: str
    theirs: float
    target: str = ""
    met: bool | None = None
    digits: int = 3


def mean(values: Sequence[float], digits: int = 3) -> str:
    """`0.976 [0.971, 0.980]`."""
    found = interval(values)
    told = f"{statistics.fmean(values):.{digits}f}"
    if found is None:
        return told
    return f"{told} [{found[0]:.{digits}f}, {found[1]:.{digits}f}]"


def lines(found: dict[str, dict[str, Any]]) -> list[Line]:
    """The first table, of the applications that were run."""
    made: list[Line] = []
    if spam := found.get("spam"):
        reference = spam["baseline"]["f1"]
        ours = statistics.fmean(spam["f1"])
        met = ours >= 0.97 and ours >= reference - 0.005
        aim = "at least 0.97, and 0.005 below beside"
        name = "TF-IDF, logistic regression"
        made.append(Line("spam, from scratch", "F1 of spam", spam["f1"], name, reference, aim, met))
    if sentiment := found.get("sentiment"):
        reference = sentiment["baseline"]["accuracy"]
        name = "TF-IDF, logistic regression"
        if begun := sentiment.get("from_minilm"):
            values = begun["accuracy"]
            met = statistics.fmean(values) >= 0.80
            what = "sentiment, from MiniLM"
            made.append(Line(what, "accuracy", values, name, reference, "at least 0.80", met))
        values = sentiment["accuracy"]
        made.append(Line("sentiment, from scratch", "accuracy", values, name, reference))
    if translate := found.get("translate_en_zh"):
        far = translate["far"]
        for key, what in (("all", "English to Chinese"), ("far", f"... {far} far from training")):
            for metric, title in (("bleu", "BLEU"), ("chrf", "chrF")):
                values = [each[key][metric] for each in translate["scores"]]
                theirs = translate["baseline"][key][metric]
                aim = "above beside" if key == "far" else ""
                met = statistics.fmean(values) > theirs if aim else None
                line = Line(what, title, values, "translation memory", theirs, aim, met, 1)
                made.append(line)
    if tagging := found.get("tagging"):
        usual, linear = (tagging["baseline"][key] for key in ("most_frequent", "linear"))
        values = tagging["accuracy"]
        met = statistics.fmean(values) >= usual + 0.05
        what = "tagging of Cantonese"
        name, aim = "each word's most frequent tag", "0.05 above beside"
        made.append(Line(what, "accuracy", values, name, usual, aim, met))
        made.append(Line("...", "accuracy", values, "linear, word and neighbours", linear))
    if party := found.get("party"):
        for arm, what in (("pretrained", "party, pretrained"), ("scratch", "party, from scratch")):
            values = party["accuracy"][arm]["1.0"]
            theirs = party["baseline"]["accuracy"]
            name = "TF-IDF, logistic regression"
            made.append(Line(what, "accuracy", values, name, theirs))
    return made


def table(rows: Sequence[Line]) -> str:
    """The lines in Markdown."""
    told = [
        "| what | on test | Étude | beside | | target | met |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        met = {True: "yes", False: "**no**", None: ""}[row.met]
        ours, theirs = mean(row.ours, row.digits), f"{row.theirs:.{row.digits}f}"
        cells = [row.what, row.metric, ours, row.beside, theirs, row.target, met]
        told.append(f"| {' | '.join(cells)} |")
    return "\n".join(told) + "\n"


def how(found: dict[str, Any]) -> str:
    """The command and what identifies its runs."""
    unit = "examples" if found["examples"] else "tokens"
    splits, dropped = found[unit], found["dropped"]
    lost = ", ".join(f"{dropped[name]} of {name}" for name in ("train", "val") if dropped.get(name))
    lost = f", after {lost} were left out as duplicates" if lost else ""
    names = [name for name in ("train", "val", "test") if name in splits]
    sizes = " / ".join(f"{splits[name]:,}" for name in names)
    called = {"train": "training", "val": "validation", "test": "test"}
    of = ", ".join(called[name] for name in names)
    seeds = ", ".join(map(str, found["seeds"]))
    runs = ", ".join(f"`{name}`" for name in found["runs"])
    return (
        f"`{found['command']}`\n\n"
        f"{found['parameters']:,} parameters, {found['steps']:,} steps; {sizes} {unit} for "
        f"{of}{lost}. Seeds {seeds}: runs {runs} at commit "
        f"{found['commit']}; {found['seconds'] / 60:.1f} minutes each on {found['threads']} thread"
        f"{'s' if found['threads'] > 1 else ''} of {found['device']}.\n"
    )


def _spam(found: dict[str, Any]) -> str:
    return (
        f"{how(found)}\nAccuracy {mean(found['accuracy'])}, expected calibration error "
        f"{mean(found['calibration_error'])}. The regression's C = {found['baseline']['C']:g} "
        "was chosen on validation. An earlier setting, of 384 tokens a text and the checkpoint of "
        "the least loss, had reached 0.968 on test.\n"
    )


def _sentiment(found: dict[str, Any]) -> str:
    told = how(found)
    if begun := found.get("from_minilm"):
        told += f"\nFrom MiniLM, a sentence encoder's weights with a new head:\n\n{how(begun)}"
    return told


def _translate(found: dict[str, Any]) -> str:
    columns = ("en", "zh", "ours", "memory")
    rows = [f"| {' | '.join(each[key] for key in columns)} |" for each in found["samples"]]
    samples = "\n".join(row.replace("\n", " ") for row in rows)
    exact = [each["all"]["exact"] for each in found["scores"]]
    return (
        f"{how(found)}\nFour beams and a length penalty of {found['length_penalty']:g}, chosen on "
        f"validation after a first look at test with 1. Met to the letter: {mean(exact)}; by the "
        "memory "
        f"{found['baseline']['all']['exact']:.3f}. The memory answers with the target of the "
        "training source that is most like the text (TF-IDF over letters). "
        f"{found['far']} of the {found['test']} test strings are far: no training source has a "
        "cosine of 0.6 or more to them. "
        f"Six of these, then six of all, by seed {found['seeds'][0]}:\n\n"
        f"| English | reference | Étude | memory |\n| --- | --- | --- | --- |\n{samples}\n"
    )


def _tagging(found: dict[str, Any]) -> str:
    return (
        f"{how(found)}\nThe corpus's own tags; whole conversations are held out; "
        f"{found['words']:,} words of test, punctuation included, {found['unseen']:,} of which are "
        "not in training: such a word's most frequent tag is that of the words that training has "
        "once.\n"
    )


def _one_out(baseline: dict[str, Any]) -> str:
    if "one_out" not in baseline:
        return ""
    right, most = baseline["one_out"]
    told = " TF-IDF and logistic regression, each president judged by all others, are right in "
    return f"{told}{right:.3f} of all passages, of which the larger party has {most:.3f}."


def _party(found: dict[str, Any]) -> str:
    before, accuracy = found["pretraining"], found["accuracy"]
    means = [statistics.fmean(each) for arm in accuracy.values() for each in arm.values()]
    above = max(*means, found["baseline"]["accuracy"]) > found["most_frequent"]
    verdict = "" if above else " No mean here is above that: nothing was learnt that carries over."
    rows = [
        f"| {float(part):.0%} | {mean(values)} | {mean(accuracy['pretrained'][part])} |"
        for part, values in accuracy["scratch"].items()
    ]
    return (
        f"{how(found)}\nPretrained by `{before['command']}` ({before['steps']:,} steps, "
        f"{before['seconds'] / 60:.1f} minutes, validation loss {before['loss']:.3f}) on speeches "
        "of other presidents than those of validation and test. A president's speeches are all in "
        "one split, so the test asks for what the parties' words share over presidents and "
        f"decades. The larger party has {found['most_frequent']:.3f} of test.{verdict}"
        f"{_one_out(found['baseline'])}\n\n"
        "| labels | from scratch | pretrained |\n| --- | --- | --- |\n"
        + "\n".join(rows)
        + "\n\n![Accuracy by the part of the labels](images/party.png)\n"
    )


def _adapt(found: dict[str, Any]) -> str:
    first, last = found["losses"]
    return (
        f"{how(found)}\nTraining loss {first:.3f} -> {last:.3f}; at most "
        f"{found['gigabytes']:.1f} GB of memory.\n"
    )


SECTIONS: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "spam": ("Spam", _spam),
    "sentiment": ("Sentiment", _sentiment),
    "translate_en_zh": ("English to Chinese", _translate),
    "tagging": ("Parts of speech of Cantonese", _tagging),
    "party": ("The speaker's party", _party),
    "adapt": ("SmolLM2-135M, adapted", _adapt),
}


def page(found: dict[str, dict[str, Any]]) -> str:
    """The whole page, in Markdown."""
    parts = [INTRODUCTION, table(lines(found))]
    for name, (title, told) in SECTIONS.items():
        body = told(found[name]) if name in found else "Not run.\n"
        parts.append(f"## {title}\n\n{body}")
    return "\n".join(parts)


def party_figure(found: dict[str, Any], path: Path) -> Path:
    """Accuracy against the part of the labels, with and without pretraining; a point a seed."""
    from etude.analysis.curves import COLOURS, new_figure, save_figure

    figure = new_figure(5.6, 3.8)
    axes = figure.add_subplot()
    arms = {"pretrained": "pretrained", "scratch": "from scratch"}
    for colour, (arm, label) in zip(COLOURS, arms.items(), strict=False):
        values = {float(key): each for key, each in found["accuracy"][arm].items()}
        means = [statistics.fmean(each) for each in values.values()]
        axes.plot(list(values), means, color=colour, label=label)
        for x, each in values.items():
            axes.plot([x] * len(each), each, "o", color=colour, markersize=4, alpha=0.7)
    for value, colour, style, label in (
        (found["baseline"]["accuracy"], "#777777", "--", "TF-IDF, all labels"),
        (found["most_frequent"], "#bbbbbb", ":", "larger party"),
    ):
        axes.axhline(value, color=colour, linestyle=style, linewidth=1, label=label)
    axes.set_xscale("log")
    shares = [float(key) for key in found["accuracy"]["scratch"]]
    axes.set_xticks(shares, [f"{share:.0%}" for share in shares])
    axes.minorticks_off()
    axes.set_xlabel("part of the labels")
    axes.set_ylabel("accuracy on test")
    axes.legend(frameon=False)
    return save_figure(figure, path)


def write_page(folder: Path) -> Path:
    """Writes the page beside the folder, and the figure that it shows."""
    found = read(folder)
    if "party" in found:
        party_figure(found["party"], folder.parent / "images" / "party.png")
    path = folder.with_suffix(".md")
    path.write_text(page(found), encoding="utf-8")
    return path


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """What was found, by application."""
    return {
        name: json.loads(file.read_text(encoding="utf-8"))
        for name in SECTIONS
        if (file := folder / f"{name}.json").exists()
    }
