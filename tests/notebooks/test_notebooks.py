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
    assert "200 steps" in printed(cells["train"])
    assert value(cells["again"]) == "True"
    assert "already finished" in printed(cells["again"])
    assert value(cells["metrics"]).splitlines()[-1].split()[1] == "200"
    assert value(cells["curve"], "image/png").startswith("iVBOR")
    assert printed(cells["generate"]).count("My fellow") == 3
    assert value(cells["pause"]) == "'paused'"
    assert value(cells["continue"]) == "('finished', [0, 90])"
    assert value(cells["exact"]) == "True"
    positions = [row[1] for row in table(cells["table"])[1:]]
    assert sorted(positions) == ["learned", "none", "rotary"]
    assert value(cells["curves"], "image/png").startswith("iVBOR")


def test_attention(execute: Execute) -> None:
    cells = execute("02_attention.ipynb")
    assert ["scores", "(1, 4, 31, 31)"] in table(cells["capture"])
    # each part equals the model's
    assert value(cells["scores"]) == "False"  # not masked yet
    assert value(cells["mask"]) == "True"
    for name in ("softmax", "heads"):
        assert value(cells[name]) == "(True, True)"
    for name in ("module", "kernels"):
        assert value(cells[name]) == "[True, True]"
    assert table(cells["rotation"])[1:] == [
        ["q", "False", "True"],
        ["k", "False", "True"],
        ["v", "True", "None"],
    ]
    # the factor: widths, then variance, entropy and derivative with and without it
    scale = [[float(number) for number in row] for row in table(cells["scale"])[3:]]
    assert [row[0] for row in scale] == [2**n for n in range(1, 12)]
    for width, variance, entropy, derivative, *_ in scale:
        assert 0.9 < variance / width < 1.1
        assert 3 < entropy < 3.2
        assert 0.2 < derivative < 0.26
    _, *_, entropy, derivative = scale[-1]
    assert entropy < 0.01
    assert derivative < 0.001
    assert all(0.5 < float(row[1]) < 20 for row in table(cells["trained_scores"])[2:])
    # the mask
    changes = {row[0]: float(row[1]) for row in table(cells["future"])[1:]}
    assert changes["with the mask"] == 0
    assert changes["without"] > 1e-3
    assert "expected a causal mask" in printed(cells["refused"])
    # positions
    assert [row[1:] for row in table(cells["permutation"])[1:]] == [
        ["none", "none", "True", "True"],
        ["none", "causal", "False", "True"],
        ["rotary", "none", "False", "False"],
        ["rotary", "causal", "False", "False"],
    ]
    # the heads: weight of the character before, entropy, increase of the loss
    *heads, equal = [[float(x) for x in row[-3:]] for row in table(cells["head_table"])[1:]]
    assert len(heads) == 8
    assert max(weight for weight, _, _ in heads[:4]) > 0.35 > 3 * equal[0]
    assert min(entropy for _, entropy, _ in heads) < 1 < 3 < equal[1]
    assert max(increase for _, _, increase in heads) > 0.1
    assert all(is_figure(cells[name]) for name in ("steps", "scale_figure", "head_figure"))


def test_own_part(execute: Execute) -> None:
    cells = execute("07_own_part.ipynb")
    assert int(printed(cells["part"]).split()[0]) <= 20
    assert "smeared_keys.yaml" in value(cells["config_file"])
    assert "'initial': 1" in value(cells["compose"])
    # messages
    message = printed(cells["wrong_signature"])
    assert message.count("wrong_parts.Alone") == 3
    assert "Alone does not accept 'dropout'" in message
    assert "forward requires 'mask', which Étude does not pass" in message
    assert "see docs/contracts/attention.md" in message
    assert "did you mean initial?" in printed(cells["wrong_key"])
    assert "Misses.attend() got an unexpected keyword" in printed(cells["wrong_step"])
    assert "wrong_parts.py, line 11" in printed(cells["wrong_step"])
    # the test of the part
    assert value(cells["formula"]) == "True"
    assert value(cells["properties"]) == "(True, True)"
    # the comparison: attention, layers, n, mean, median, std, low, high
    assert len(table(cells["sweep"])) == 10
    groups = {
        (attention, layers): [float(number) for number in numbers]
        for _, attention, layers, *numbers in table(cells["groups"])[1:]
    }
    baseline = groups["multi_head", "1"]
    for group in (groups["smeared_keys", "1"], groups["multi_head", "2"]):
        n, mean, _, _, low, high = group
        assert n == 3
        assert low <= mean <= high < 1.2 < 2.5 < baseline[4]  # far from the baseline's interval
    assert {row[-2] for row in table(cells["comparison"])[1:]} == {"0.1"}  # the smallest p
    # the explanation
    scores = {row[0]: [float(x) for x in row[1:]] for row in table(cells["induction"])[2:]}
    assert max(scores["built-in, 1 layer"]) < 0.2
    assert min(scores["smeared keys, 1 layer"]) > 0.3
    assert min(scores["built-in, 2 layers"]) > 0.3
    own = [float(x) for row in table(cells["alpha"])[2:] for x in row[1:]]
    assert len(own) == 12
    assert max(own) < 0.5
    losses = [float(row[1]) for row in table(cells["replace"])[1:]]
    assert losses[0] < 2 < 4 < losses[1]
    assert all(is_figure(cells[name]) for name in ("curves", "patterns"))
    assert "trust=['my_parts']" in printed(cells["trust"])
    assert "SmearedKeys(" in value(cells["trust"])


def numbers(cell: Any, count: int) -> list[list[float]]:
    """The last `count` numbers of each row of a table, below its two rows of names."""
    return [[float(word) for word in row[-count:]] for row in table(cell)[2:]]


def test_inside(execute: Execute) -> None:
    cells = execute("05_inside.ipynb")
    accuracies = numbers(cells["accuracy"], 3)
    assert len(accuracies) == 3  # seeds
    for two_layers, one_layer, learned in accuracies:
        assert two_layers > 0.9
        assert one_layer < 0.3
        assert learned > 0.85
    scores = numbers(cells["scores"], 3)
    assert len(scores) == 3
    for two_layers, one_layer, learned in scores:
        assert two_layers > 0.5
        assert one_layer < 0.1
        assert learned > 0.6
    for score_step, loss_step in numbers(cells["moment"], 2):
        assert 40 < score_step < 300
        assert abs(score_step - loss_step) <= 60

    zeros = value(cells["ablation_table"]).partition("zero")[2].splitlines()
    none, others, mixed, best = [[float(x) for x in line.split()[-3:]] for line in zeros]
    assert none[1] > 0.85  # the lowest of three seeds
    assert others[1] > 0.8
    assert others[0] > none[0] - 0.1
    assert best[2] < 0.15  # the highest
    assert best[2] < mixed[1] < others[1]

    heads = numbers(cells["composition"], 3)  # previous-token weight, accuracy, induction score
    assert heads[0][0] == max(head[0] for head in heads)
    assert heads[0][1] < 0.15
    assert heads[0][2] < 0.1
    assert all(accuracy > 0.8 and score > 0.5 for _, accuracy, score in heads[1:])

    learned_best, _, alibi_best, alibi_last = numbers(cells["redundancy"], 5)
    assert learned_best[2] > 0.75
    assert learned_best[4] < 0.1
    assert alibi_best[2] < 0.15
    assert alibi_last[2] > 0.8
    for figure in ("curves", "patterns", "ablation_figure", "redundancy_figure"):
        assert value(cells[figure], "image/png").startswith("iVBOR")


def group_numbers(cell: Any) -> dict[tuple[str, ...], list[float]]:
    """The numbers of each row of a table that `Groups` made, by the cells before the column `n`."""
    header, *rows = table(cell)
    first = header.index("n")
    return {tuple(row[1:first]): [float(x) for x in row[first:]] for row in rows}


def test_study(execute: Execute) -> None:
    cells = execute("03_study.ipynb")
    planned = table(cells["plan"])[1:]
    assert len(planned) == 12
    assert {row[2] for row in planned} == {"new"}
    assert len({row[3] for row in planned}) == 1  # the number of parameters
    assert "12 jobs: 12 finished" in printed(cells["sweep"])
    assert len(cells["sweep"].outputs) < 8  # no output for each update of the progress
    assert len(table(cells["frame"])) == 13
    assert [row[2:4] for row in table(cells["where"])[1:]] == [["alibi", "0"], ["alibi", "1"]]
    assert ["model.position", "rotary", "alibi"] in table(cells["diff"])
    # the loss at the length of training
    groups = group_numbers(cells["groups"])
    assert list(groups)[:2] == [("rotary",), ("alibi",)]
    means = {name: row[1] for (name,), row in groups.items()}
    assert means["rotary"] + 0.02 < means["alibi"] < means["none"] - 0.03
    assert abs(means["none"] - means["sinusoidal"]) < 0.08
    tests = table(cells["tests"])
    p, holm = tests[0].index("p"), tests[0].index("holm")
    assert [(row[p], row[holm]) for row in tests[1:]] == [("0.1", "0.3")] * 3
    assert table(cells["smallest"])[3][1:] == ["0.1000", "0.3000", "0.4000"]
    # longer windows: means and standard deviations by position, at 32, 64, 128 and 256 characters
    longer = {row[0]: [float(x) for x in row[1::2]] for row in table(cells["longer"])[3:]}
    assert abs(longer["alibi"][3] - longer["alibi"][0]) < 0.03
    for position in ("rotary", "sinusoidal"):
        assert longer[position][3] > longer[position][0] + 0.08
        assert longer[position][3] > longer["alibi"][3] + 0.08
    assert value(cells["longest"]) == "0.1"
    assert r"\begin{tabular}{lrrr}" in printed(cells["latex"])
    assert "rotary & 3 & " in printed(cells["latex"])
    # extended
    assert [row[1::2] for row in table(cells["plan_arm"])[1:]] == [["done", "12"], ["new", "3"]]
    assert "15 jobs: 12 reused, 3 finished" in printed(cells["sweep_arm"])
    extended = table(cells["sweep_arm"])
    assert [(row[p], row[holm]) for row in extended[1:]] == [("0.1", "0.4")] * 4
    assert "2 jobs: 2 finished" in printed(cells["sweep_seed"])
    assert round(float(value(cells["sweep_seed"])), 4) == 0.0286
    assert all(is_figure(cells[name]) for name in ("curves", "length_figure", "final_figure"))


def test_paper(execute: Execute) -> None:
    cells = execute("09_paper.ipynb")
    for name in ("reproduce", "reproduce_own"):
        assert "Comparison with the paper: match" in printed(cells[name])
    assert [row[-1] for row in table(cells["result"])[1:]] == ["match", "match"]
    # the first claim fails where the stream does not grow: slopes of the stream and the gradient
    slopes = {row[0]: [float(x) for x in row[1::2]] for row in table(cells["slopes"])[3:]}
    for name in ("Pre-LN, Xavier", "Pre-LN, N(0, 0.02)"):
        stream, gradient = slopes[name]
        assert 0.4 < stream < 0.8
        assert -0.65 < gradient < -0.25
    for name in ("Pre-LN, GPT-2", "Pre-LN, zero output"):
        assert max(map(abs, slopes[name])) < 0.1
    assert slopes["Post-LN, Xavier"][0] == 0
    assert slopes["Post-LN, Xavier"][1] > 0.1
    # the second claim: means of the ratios, and the case in which it fails
    ratios = {row[0]: float(row[2]) for row in table(cells["own_result"])[1:]}
    assert ratios["post"] > 1.12
    assert ratios["pre"] < 1.03
    assert "12 jobs: 6 reused, 6 finished" in printed(cells["sweep"])
    losses = {key: row[1] for key, row in group_numbers(cells["sweep"]).items()}
    assert losses["0.008", "0"] > 3
    assert losses["0.002", "0"] < losses["0.002", "60"] < 2.8
    assert all(is_figure(cells[name]) for name in ("gradients", "beside", "fails", "own_figure"))
    assert is_figure(cells["rates"])


def test_released_weights(execute: Execute) -> None:
    cells = execute("08_released_weights.ipynb")
    # in
    assert "written: small_gpt2" in printed(cells["release"])
    assert ["model.safetensors", "4.260"] in table(cells["load"])
    assert value(cells["same"]) == "(True, True)"
    # inspected
    assert "blocks.0.attention.pattern" in value(cells["sites"])
    assert value(cells["lens_by_hand"]) == "True"
    total, difference = re.findall(r"-?\d+\.\d+", printed(cells["attribution"]))
    assert float(total) == pytest.approx(float(difference), abs=0.01)
    assert float(total) > 4
    assert table(cells["attribution"])[2][0] == "feedforward"
    assert float(printed(cells["ablation"]).split()[-1]) > 0.9
    without = [[float(x) for x in row[1:]] for row in table(cells["ablation"])[2:]]
    assert min(attention for attention, _ in without) > 0.8
    assert without[0][1] < 0.3
    # adapted
    for name in ("generate", "generate_adapted"):
        assert printed(cells[name]).count("The value of the") == 3
    losses = {row[0]: [float(x) for x in row[1:]] for row in table(cells["losses"])[1:]}
    assert losses["manual"][2] < -0.7
    assert losses["speeches"][2] > 0.15
    gains = [row[-6:] for row in table(cells["gains"])[2:]]
    assert ["' se'", "'qu'"] in [row[:2] for row in gains]
    assert all(float(adapted) + 1 < float(released) for *_, released, adapted, _ in gains)
    # changed
    changed = [[float(x) for x in row[1:]] for row in table(cells["changed"])[3:]]
    assert len(changed) == 4
    attention, feedforward = (
        sum(sum(row[part]) for row in changed) / 8 for part in (slice(0, 2), slice(2, 4))
    )
    assert feedforward > 1.2 * attention
    assert all(row[4] < row[5] < 1 for row in changed)
    released, adapted, _ = losses["manual"]
    for row in table(cells["exchanged"])[2:]:
        alone, without_it = float(row[1]), float(row[2])
        assert (released + adapted) / 2 < alone < released
        assert adapted < without_it
    (favour,) = [row[1:] for row in table(cells["attributions"]) if row[0] == "feedforward"]
    assert float(favour[0]) < -1 < 1 < float(favour[1])
    # out
    assert "written: adapted_gpt2" in printed(cells["convert"])
    assert "written: adapter" in printed(cells["convert"])
    assert [row[1] for row in table(cells["out"])[1:]] == ["True"] * 3
    assert all(is_figure(cells[name]) for name in ("lens", "lenses", "attributions"))


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
