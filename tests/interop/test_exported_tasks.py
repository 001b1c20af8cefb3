"""Export of finetuned runs of each task to `transformers`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers as hf
from safetensors.torch import load_file

from etude.api import Run, load_run
from etude.config.compose import compose
from etude.training.run import train

TEXT = "the cats ran"
Toy = Callable[..., list[str]]


def trained(toy: Toy, kind: str, root: Path, *more: str, model: str = "bert_tiny") -> Run:
    words = [f"model={model}" if w == "model=encoder_nano" else w for w in toy(kind, root, *more)]
    return load_run(train(compose(words)).record.path)


def ids_of(run: Run) -> torch.Tensor:
    return torch.tensor(run.tokenizer().framed([TEXT]))


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "roberta"])
@pytest.mark.parametrize(
    ("kind", "ending", "problem"),
    [
        ("classification", "ForSequenceClassification", None),
        ("text_regression", "ForSequenceClassification", "regression"),
        ("tagging", "ForTokenClassification", None),
        ("token_regression", "ForTokenClassification", "regression"),
        ("question_answering", "ForQuestionAnswering", None),
        ("masked_lm", "ForMaskedLM", None),
    ],
)
def test_each_task(
    kind: str, ending: str, problem: str | None, family: str, toy: Toy, etude: Any, tmp_path: Path
) -> None:
    model = "bert_tiny" if family == "bert" else "roberta_base"
    head = ["model/head=classification"] if ending == "ForSequenceClassification" else []
    run = trained(toy, kind, tmp_path / "runs", *head, model=model)
    answer = etude("convert", str(run.path), str(tmp_path / "out"))
    assert answer.code == 0, answer.err
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    (architecture,) = config["architectures"]
    assert architecture.lower() == f"{family}{ending}".lower()
    assert config.get("problem_type") == problem
    if run.labels and kind in ("classification", "tagging"):
        assert config["id2label"] == {str(n): name for n, name in enumerate(run.labels)}
    theirs = getattr(hf, architecture).from_pretrained(tmp_path / "out")
    ids = ids_of(run)
    ours = run.task().model(ids)
    said = theirs(ids, attention_mask=torch.ones_like(ids))
    if ending == "ForQuestionAnswering":
        found = torch.stack((said.start_logits, said.end_logits), -1)
    else:
        found = said.logits
    torch.testing.assert_close(found, ours, atol=1e-5, rtol=1e-5)


def logits_of_modules(folder: Path, body: Any, ids: torch.Tensor) -> torch.Tensor:
    """Computes logits as `sentence-transformers` does: the mean of the vectors, a linear layer."""
    listed = json.loads((folder / "modules.json").read_text())
    assert [module["path"] for module in listed] == ["", "1_Pooling", "2_Dense"]
    pooling = json.loads((folder / "1_Pooling" / "config.json").read_text())
    assert pooling["pooling_mode_mean_tokens"]
    vectors = body(ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    weights = load_file(folder / "2_Dense" / "model.safetensors")
    return vectors.mean(1) @ weights["linear.weight"].T + weights["linear.bias"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["classification", "text_regression"])
@pytest.mark.parametrize("model", ["bert_tiny", "roberta_base"])
def test_the_mean_of_all_positions(
    kind: str, model: str, toy: Toy, etude: Any, tmp_path: Path
) -> None:
    run = trained(toy, kind, tmp_path / "runs", "model/head=mean", model=model)
    out = tmp_path / "out"
    answer = etude("convert", str(run.path), str(out))
    assert answer.code == 0, answer.err
    assert "the logits of modules.json" in answer.out
    ids = ids_of(run)
    body = hf.AutoModel.from_pretrained(out)
    torch.testing.assert_close(
        logits_of_modules(out, body, ids), run.task().model(ids), atol=1e-5, rtol=1e-5
    )
    tokenizer = hf.AutoTokenizer.from_pretrained(out)
    assert tokenizer(TEXT)["input_ids"] == ids[0].tolist()
    length = json.loads((out / "sentence_bert_config.json").read_text())["max_seq_length"]
    assert length == 24  # the sequence length in training


def test_two_texts(toy: Toy, toy_files: Path, etude: Any, tmp_path: Path) -> None:
    """The tokenizer in `transformers` returns the same token types as in training."""
    run = trained(toy, "question_answering", tmp_path / "runs")
    out = tmp_path / "out"
    assert etude("convert", str(run.path), str(out)).code == 0
    encoded = hf.AutoTokenizer.from_pretrained(out)(
        "after cats", "the cats ran", return_tensors="pt"
    )
    assert encoded["token_type_ids"].sum() > 0
    said = hf.BertForQuestionAnswering.from_pretrained(out)(**encoded)
    ours = run.task().model(encoded["input_ids"], token_types=encoded["token_type_ids"])
    found = torch.stack((said.start_logits, said.end_logits), -1)
    torch.testing.assert_close(found, ours, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("head", ["classification", "mean", "answers"])
def test_an_adapter(head: str, toy: Toy, etude: Any, tmp_path: Path) -> None:
    first = trained(toy, "masked_lm", tmp_path / "runs", "model.max_length=24")
    base, out = tmp_path / "base", tmp_path / "out"
    assert etude("convert", str(first.path), str(base)).code == 0
    kind = "question_answering" if head == "answers" else "classification"
    words = [w for w in toy(kind, tmp_path / "runs") if not w.startswith("model")]
    words = [w for w in words if not w.startswith("data.tokenizer")]
    more = [f"init_from={base}", "init_from.head=new", "init_from.lora.rank=2", "optimizer.lr=0.05"]
    chosen = "tagging" if head == "answers" else head
    run = load_run(train(compose([*words, *more, f"+model/head={chosen}"])).record.path)
    answer = etude("convert", str(run.path), str(out), "--adapter")
    assert answer.code == 0, answer.err
    ids = ids_of(run)
    ours = run.task().model(ids)
    if head == "mean":
        body = peft.PeftModel.from_pretrained(hf.BertModel.from_pretrained(base), out)
        found = logits_of_modules(out, body, ids)
    elif head == "answers":
        asked = hf.BertForQuestionAnswering.from_pretrained(base)
        said = peft.PeftModel.from_pretrained(asked, out)(ids)
        found = torch.stack((said.start_logits, said.end_logits), -1)
        assert json.loads((out / "adapter_config.json").read_text())["modules_to_save"] == [
            "qa_outputs"
        ]
    else:
        classifier = hf.BertForSequenceClassification.from_pretrained(base, num_labels=2)
        found = peft.PeftModel.from_pretrained(classifier, out)(ids).logits
    torch.testing.assert_close(found, ours, atol=1e-5, rtol=1e-5)
    assert (out / "tokenizer.json").is_file()


def test_what_cannot_be_written_is_refused_before_training(
    toy: Toy, etude: Any, tmp_path: Path
) -> None:
    words = toy("classification", tmp_path / "runs", "run.exportable=true")
    answer = etude("train", *words)
    assert answer.code == 2
    assert (
        "run.exportable: expected a model whose components all exist in transformers" in answer.err
    )
    assert "families that can be exported: bert, roberta" in answer.err
    assert "model/head=classification, mean, tagging or masked_lm" in answer.err
    assert not (tmp_path / "runs").exists()
    mine = [f"model={'bert_tiny'}" if w == "model=encoder_nano" else w for w in words]
    assert etude("train", *mine, "model/head=mean").code == 0
    pairs = [*toy("translation", tmp_path / "runs"), "run.exportable=true"]
    assert "families that can be exported: t5, marian" in etude("train", *pairs).err
