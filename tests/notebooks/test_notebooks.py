"""Every notebook runs from an empty folder, and shows what its text says."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.notebook

Execute = Callable[[str], dict[str, Any]]


def printed(cell: Any) -> str:
    """What a cell wrote to standard output."""
    return "".join(o.text for o in cell.outputs if o.output_type == "stream" and o.name == "stdout")


def value(cell: Any, kind: str = "text/plain") -> str:
    """The last value or picture that a cell shows, as text or base64."""
    return str([o.data[kind] for o in cell.outputs if kind in o.get("data", {})][-1])


def table(cell: Any) -> list[list[str]]:
    """The rows of the last table that a cell shows, with the header rows, as texts."""
    rows = re.findall(r"<tr.*?>(.*?)</tr>", value(cell, "text/html"), re.DOTALL)
    return [re.findall(r"<t[dh].*?>(.*?)</t[dh]>", row, re.DOTALL) for row in rows]


def is_figure(cell: Any) -> bool:
    """Whether a cell shows a picture of more than 10 kB."""
    return len(value(cell, "image/png")) > 10_000


def test_first_run(execute: Execute) -> None:
    cells = execute("01_first_run.ipynb")
    assert "did you mean layers?" in printed(cells["mistake"])
    assert "optimizer.lr = 'fast': expected a number" in printed(cells["mistake"])
    assert "finished" in value(cells["train"])
    assert "step 200/200" in printed(cells["train"])
    assert value(cells["again"]) == "True"
    assert "already finished" in printed(cells["again"])
    assert value(cells["metrics"]).splitlines()[-1].split()[1] == "200"
    assert value(cells["curve"], "image/png").startswith("iVBOR")
    assert printed(cells["generate"]).count("My fellow") == 3
    assert value(cells["pause"]) == "'paused'"
    assert value(cells["continue"]) == "('finished', [0, 90])"
    assert value(cells["exact"]) == "True"
    table = value(cells["table"])
    assert [table.count(word) for word in ("rotary", "learned", "none")] == [2, 1, 1]
    assert value(cells["curves"], "image/png").startswith("iVBOR")


def test_pretrain_finetune(execute: Execute) -> None:
    cells = execute("04_pretrain_finetune.ipynb")
    entropy = float(re.search(r"[\d.]+", printed(cells["entropy"]))[0])  # type: ignore[index]
    assert float(table(cells["pretrain"])[-1][-1]) < entropy - 0.4
    assert value(cells["finetune"]) == "24"
    # training loss: mean, minimum, maximum; then the same of the validation accuracy
    rows = [[float(number) for number in row[-6:]] for row in table(cells["results"])[3:]]
    pretrained, random = rows[:4], rows[4:]
    assert len(random) == 4
    for arm in (pretrained, random):
        assert arm[0][2] < 0.15  # even the worst seed has learned its 50 utterances
        means = [row[3] for row in arm]
        assert means == sorted(means)  # more labels are better
    assert pretrained[0][4] > random[0][5] + 0.02  # the worst seed above the best one
    assert abs(pretrained[3][3] - random[3][3]) < 0.03  # no difference with all labels
    assert is_figure(cells["figure"])
    unseen = {row[0]: [float(number) for number in row[1:]] for row in table(cells["unseen"])[1:]}
    for words in ("labelled", "new"):
        assert unseen[words][0] > unseen[words][1]
    assert unseen["new"][0] < unseen["labelled"][0] - 0.2
    words = ["聽日", "我", "同", "朋友", "去", "睇", "戲", "."]
    assert [row[0] for row in table(cells["predict"])[1:]] == words


def test_translation(execute: Execute) -> None:
    cells = execute("06_translation.ipynb")
    model, memory = (float(row[1]) for row in table(cells["scores"])[1:])
    assert model > memory + 2
    rules = {row[0]: [float(number) for number in row[1:]] for row in table(cells["align"])[1:]}
    heads = [scores for name, scores in rules.items() if name.startswith("layer")]
    assert len(heads) == 8
    assert max(score for score, _ in heads) > rules["diagonal"][0]
    assert max(score for _, score in heads) > 2 * rules["chance"][1]
    assert all(is_figure(cells[name]) for name in ("alignment", "heads", "sweep"))
    removed = {row[0]: row[1:] for row in table(cells["without"])[2:]}
    assert float(removed["nothing"][0]) > 30
    assert float(removed["both"][0]) < 5
    assert removed["both"][1] == "1"  # the same text for every source
    ranked = [float(row[4]) for row in table(cells["hypotheses"])[1:]]  # log p / n
    assert len(ranked) == 5
    assert ranked == sorted(ranked, reverse=True)
    columns = ("BLEU", "chrF", "log p", "length")
    by_beams = {
        (row[1], float(row[2])): dict(zip(columns, map(float, row[3:]), strict=True))
        for row in table(cells["beams"])[1:]
    }
    greedy, short, usual, long = (
        by_beams[key] for key in (("1", 1.0), ("4", 0.0), ("4", 1.0), ("4", 2.0))
    )
    assert usual["BLEU"] > greedy["BLEU"] - 0.5
    assert short["log p"] == max(row["log p"] for row in by_beams.values())
    assert short["length"] + 0.05 < usual["length"] < long["length"] - 0.05
    assert long["BLEU"] < usual["BLEU"] - 2
