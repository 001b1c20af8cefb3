"""Runs that start from the weights of another run or from pretrained ones."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from etude.config.compose import compose
from etude.errors import RequestError
from etude.records.record import Record
from etude.training.build import check_all
from etude.training.init_from import InitFromSource
from etude.training.model import build_model
from etude.training.run import train

Toy = Callable[..., list[str]]


def toys(words: list[str], *more: str) -> list[str]:
    """Returns a toy's overrides without those that the source determines."""
    ours = ("model.", "data.tokenizer.", "model=")
    return [word for word in words if not word.startswith(ours)] + list(more)


def model_of(words: list[str]) -> Any:
    """Returns the module of a run before its first step."""
    checked = check_all(compose(words))
    labels = 2 if "task=classification" in words else 0
    size = checked.nodes["model"].arguments["vocab_size"]
    module = build_model(checked, size, labels)
    InitFromSource.fill(module, checked.config.init_from, Path(checked.run.root))
    return module


@pytest.fixture(scope="module")
def pretrained(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Record:
    """Record of a masked language model."""
    return train(compose(toy("masked_lm", tmp_path_factory.mktemp("pre")))).record


@pytest.mark.parametrize("source", ["rows.jsonl", "''"])
def test_what_is_no_source_is_told_as_typed(
    toy: Toy, tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text("{}\n")
    with pytest.raises(RequestError) as refused:
        train(compose(toys(toy("classification", tmp_path / "toy"), f"init_from={source}")))
    (problem,) = refused.value.problems
    assert (problem.where, problem.value) == ("init_from", source.strip("'"))


def test_a_run_of_ones_own(pretrained: Record, toy: Toy, tmp_path: Path) -> None:
    words = toys(toy("classification", tmp_path), f"init_from={pretrained.path}")
    module = model_of(words)
    weights = load_file(pretrained.checkpoint("best") / "model.safetensors")
    mine = module.state_dict()
    for name, tensor in weights.items():
        if not name.startswith("head."):
            assert torch.equal(mine[name], tensor), name
    assert mine["head.classifier.weight"].shape == (2, 8)
    record = train(compose(words)).record
    assert record.status == "finished"
    tokenizers = [Record.read(r.path).info["tokenizer"]["size"] for r in (pretrained, record)]
    assert tokenizers[0] == tokenizers[1]
    again = train(compose(words))
    assert again.reused
    info = pretrained.info
    found = json.loads((pretrained.checkpoint("best") / "MANIFEST.json").read_text())
    config = compose(words)
    checked = check_all(config)
    assert checked.identity["init_from"] == {
        "run": info["signature"],
        "step": found["step"],
        "sha256": found["sha256"]["model.safetensors"],
        "head": "keep",
    }


def test_the_record_needs_its_source_no_more(pretrained: Record, toy: Toy, tmp_path: Path) -> None:
    import etude

    source = tmp_path / "source"
    shutil.copytree(pretrained.path, source)
    words = toys(toy("classification", tmp_path), f"init_from={source}")
    train(compose([*words, "run.stop_at_step=6"]))
    record = train(compose(words)).record
    shutil.rmtree(source)
    run = etude.load_run(record.path)
    assert run.model().module.head.classifier.weight.shape == (2, 8)


def test_wrong_sources(pretrained: Record, toy: Toy, tmp_path: Path) -> None:
    def refused(source: object) -> str:
        words = toys(toy("classification", tmp_path), f"init_from={source}")
        with pytest.raises(RequestError) as caught:
            check_all(compose(words))
        return str(caught.value)

    hint = f"the path is inside the run {pretrained.path}; its checkpoint is chosen by init_from"
    assert hint in refused(pretrained.path / "checkpoints")


def test_other_weights_make_another_run(pretrained: Record, toy: Toy, tmp_path: Path) -> None:
    words = toys(toy("classification", tmp_path))
    steps = [step for step, _ in pretrained.checkpoints()]
    assert len(steps) > 1
    names = [
        check_all(
            compose([*words, f"init_from={pretrained.path}", f"init_from.checkpoint={step}"])
        ).identity["init_from"]["sha256"]
        for step in steps
    ]
    assert len(set(names)) == len(steps)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small BERT with its vocabulary, saved by `transformers`."""
    folder = tmp_path_factory.mktemp("bert")
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz."]
    pieces += [f"##{piece}" for piece in pieces[5:]]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n")
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": len(pieces),
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 64,
    }
    BertForMaskedLM(BertConfig(**sizes)).save_pretrained(folder / "mlm")
    model = BertForSequenceClassification(BertConfig(**sizes, num_labels=2))
    model.save_pretrained(folder / "classifier")
    model.bert.save_pretrained(folder / "body")
    wide = BertForSequenceClassification(BertConfig(**sizes, num_labels=3))
    wide.save_pretrained(folder / "three")
    for name in ("mlm", "classifier", "body", "three"):
        shutil.copy(folder / "vocab.txt", folder / name)
    return folder


def test_released_weights_with_their_head(bert: Path, toy: Toy, tmp_path: Path) -> None:
    """The outputs equal those of `transformers` for the same ids."""
    folder = bert / "classifier"
    module = model_of(toys(toy("classification", tmp_path), f"init_from={folder}")).eval()
    theirs = BertForSequenceClassification.from_pretrained(folder).eval()
    ids = torch.randint(5, 50, (3, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(module(ids), theirs(ids).logits, atol=1e-5)


def test_a_body_keeps_its_pooler(bert: Path, toy: Toy, tmp_path: Path) -> None:
    module = model_of(toys(toy("classification", tmp_path), f"init_from={bert / 'body'}"))
    weights = load_file(bert / "body" / "model.safetensors")
    assert torch.equal(module.head.dense.weight, weights["pooler.dense.weight"])


def test_a_head_of_another_kind_is_new(bert: Path, toy: Toy, tmp_path: Path) -> None:
    words = toys(toy("classification", tmp_path), f"init_from={bert / 'mlm'}")
    module = model_of(words)
    weights = load_file(bert / "mlm" / "model.safetensors")
    dense = weights["cls.predictions.transform.dense.weight"]
    assert not torch.equal(module.head.dense.weight, dense)
    record = train(compose([*words, "trainer.max_steps=3"])).record
    assert record.status == "finished"


def test_a_head_of_the_wrong_size(bert: Path, toy: Toy, tmp_path: Path) -> None:
    words = toys(toy("classification", tmp_path / "runs"), f"init_from={bert / 'three'}")
    with pytest.raises(RequestError) as caught:
        train(compose(words))
    told = str(caught.value)
    assert "init_from, head.classifier.weight = '3 x 16': expected the shape 2 x 16" in told
    assert "to use a new head, set init_from.head=new" in told
    assert not (tmp_path / "runs").exists()
    assert train(compose([*words, "init_from.head=new"])).status == "finished"


@pytest.mark.parametrize("more", [[], ["model.max_length=90"]])
def test_grown_positions_are_the_sources_then_new_ones(
    bert: Path, toy: Toy, tmp_path: Path, more: list[str]
) -> None:
    words = toys(toy("classification", tmp_path), f"init_from={bert / 'body'}")
    grow = ["init_from.grow_positions=true", "data.sequence_length=80", *more]
    weights = load_file(bert / "body" / "model.safetensors")
    theirs = weights["embeddings.position_embeddings.weight"]
    rows = model_of([*words, *grow]).position.weight
    assert rows.shape == (90 if more else 80, 16)
    assert torch.equal(rows[:64], theirs)
    assert 0.01 < rows[64:].std() < 0.04  # BERT's first values
    before, after = (check_all(compose([*words, *w])).identity for w in ([], grow))
    assert "grow_positions" not in before["init_from"]
    assert after["init_from"]["grow_positions"] is True


def test_a_run_with_grown_positions_loads(bert: Path, toy: Toy, tmp_path: Path) -> None:
    import etude

    words = toys(toy("classification", tmp_path), f"init_from={bert / 'body'}")
    grow = ["init_from.grow_positions=true", "data.sequence_length=80", "trainer.max_steps=2"]
    record = train(compose([*words, *grow])).record
    assert etude.load_run(record.path).model().module.max_length == 80


def test_one_value_of_the_model_can_be_set(bert: Path, toy: Toy, tmp_path: Path) -> None:
    folder = bert / "body"
    more = [f"init_from={folder}", "model.dropout=0.3", "model.attention.attention_dropout=0"]
    module = model_of(toys(toy("classification", tmp_path), *more))
    assert module.dropout.p == 0.3
    assert module.blocks[0].attention.dropout == 0.0


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from etude.data.tokenizer import BPE

    folder = tmp_path_factory.mktemp("gpt2")
    BPE(270).train(["the quick brown fox jumps over the lazy dogs"] * 9).save(
        folder / "tokenizer.json"
    )
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=270, n_embd=16, n_layer=2, n_head=2, n_positions=200)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def llama(gpt2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder with rotary positions."""
    folder = tmp_path_factory.mktemp("llama")
    shutil.copy(gpt2 / "tokenizer.json", folder)
    config = LlamaConfig(
        vocab_size=270, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=200,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_a_decoder_learns_to_answer(gpt2: Path, toy: Toy, tmp_path: Path) -> None:
    words = toys(toy("instruction", tmp_path), f"init_from={gpt2}")
    module = model_of(words).eval()
    theirs = GPT2LMHeadModel.from_pretrained(gpt2).eval()
    ids = torch.randint(0, 270, (2, 9))
    with torch.no_grad():
        assert torch.allclose(module(ids), theirs(ids).logits, atol=1e-5)
    assert train(compose(words)).status == "finished"


HUB = """
import json, sys
from etude.config.compose import compose
from etude.training.run import train
record = train(compose(sys.argv[1:])).record
print(json.dumps([str(record.path), record.info["status"]]))
"""


@pytest.mark.slow
def test_a_hub_id_begins_at_its_commit(
    gpt2: Path, toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the branch has moved, the commit starts the same run and the branch another one."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "data")
    from fake_hub import Models, commit_of

    repository = tmp_path / "hub" / "owner" / "name"
    shutil.copytree(gpt2, repository)
    first = commit_of(repository)
    more = ["trainer.max_steps=2", "optimizer.lr=1e-12", "run.samples=0"]
    words = toys(toy("instruction", tmp_path / "runs", *more), "init_from=owner/name")

    def trained(hub: Models, *more: str) -> Path:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
        done = subprocess.run(
            [sys.executable, "-c", HUB, *words, *more],
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        path, status = json.loads(done.stdout.splitlines()[-1])
        assert status == "finished"
        return Path(path)

    with Models(tmp_path / "hub") as hub:
        record = trained(hub)
        config = OmegaConf.load(record / "config.yaml")
        assert config.init_from.found == {"repository": "owner/name", "commit": first}
        (checkpoint,) = record.glob("checkpoints/step-00000002")
        ours = load_file(checkpoint / "model.safetensors")["embedding.weight"]
        theirs = load_file(repository / "model.safetensors")["transformer.wte.weight"]
        assert torch.allclose(ours, theirs, atol=1e-6)
        (repository / "README.md").write_text("The branch moves on.")
        assert trained(hub, f"init_from.revision={first}") == record
        assert trained(hub) != record


def test_a_linear_probe_trains_the_head_alone(bert: Path, toy: Toy, tmp_path: Path) -> None:
    folder = bert / "body"
    more = [f"init_from={folder}", "init_from.freeze=body", "+model/head=mean"]
    record = train(compose(toys(toy("classification", tmp_path), *more))).record
    weights = load_file(record.checkpoint("last") / "model.safetensors")
    before = model_of(toys(toy("classification", tmp_path), *more)).state_dict()
    changed = {name for name, tensor in weights.items() if not torch.equal(tensor, before[name])}
    assert changed == {"head.classifier.weight", "head.classifier.bias"}


def test_frozen_layers(bert: Path, toy: Toy, tmp_path: Path) -> None:
    frozen = "init_from.freeze=[embedding*,blocks.0.*]"
    more = [f"init_from={bert / 'body'}", frozen]
    record = train(compose(toys(toy("classification", tmp_path), *more))).record
    weights = load_file(record.checkpoint("last") / "model.safetensors")
    before = model_of(toys(toy("classification", tmp_path), *more)).state_dict()
    kept = {name for name, tensor in weights.items() if torch.equal(tensor, before[name])}
    assert kept == {n for n in before if n.startswith(("embedding", "blocks.0."))}
    other = check_all(compose(toys(toy("classification", tmp_path), more[0]))).identity
    assert check_all(compose(toys(toy("classification", tmp_path), *more))).identity != other


class TestRefusals:
    def test_nothing_left_to_train(self, bert: Path, toy: Toy, tmp_path: Path) -> None:
        words = toys(toy("classification", tmp_path / "runs"), f"init_from={bert / 'body'}")
        told = self.told([*words, "init_from.freeze=['*']"])
        assert "patterns that leave at least one parameter to train" in told
        assert "a pattern that matches a parameter name" in self.told(
            [*words, "init_from.freeze=layers.0"]
        )
        assert not (tmp_path / "runs").exists()

    def told(self, words: list[str]) -> str:
        with pytest.raises(RequestError) as caught:
            train(compose(words))
        return str(caught.value)

    def test_a_decoder_for_an_encoders_task(self, gpt2: Path, toy: Toy, tmp_path: Path) -> None:
        words = toys(toy("classification", tmp_path / "runs"), f"init_from={gpt2}")
        told = self.told(words)
        assert "model = 'Decoder': expected an encoder for Classification" in told
        assert not (tmp_path / "runs").exists()

    def test_no_such_source(self, toy: Toy, tmp_path: Path, monkeypatch: Any) -> None:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        words = toys(toy("classification", tmp_path), f"init_from={tmp_path}/nowhere")
        assert "init_from" in self.told(words)

    def test_a_model_beside_the_source(self, bert: Path, toy: Toy, tmp_path: Path) -> None:
        words = toys(toy("classification", tmp_path), f"init_from={bert / 'body'}")
        told = self.told([*words, "model=bert_tiny"])
        assert "expected no override, because init_from.source determines the model" in told
        told = self.told([*words, "data/tokenizer=bpe"])
        assert "because init_from.source determines the tokenizer" in told

    def test_another_shape(self, bert: Path, toy: Toy, tmp_path: Path) -> None:
        words = toys(toy("classification", tmp_path / "runs"), f"init_from={bert / 'body'}")
        told = self.told([*words, "model.layers=3"])
        assert "blocks.2" in told
        assert "more incompatible tensors" in told

    def test_longer_than_the_source(self, bert: Path, toy: Toy, tmp_path: Path) -> None:
        words = toys(toy("classification", tmp_path), f"init_from={bert / 'body'}")
        told = self.told([*words, "data.sequence_length=100"])
        assert "data.sequence_length = 100: expected at most 64, the number of positions" in told
        assert "model.max_length" not in told
        assert "to add untrained positions, set init_from.grow_positions=true" in told
        told = self.told([*words, "data.sequence_length=100", "model.max_length=100"])
        assert "model.max_length = 100: expected at most 64, the number of learned" in told
        assert "model.max_length = 32: expected at least 64, the number of positions" in self.told(
            [*words, "model.max_length=32"]
        )

    def test_positions_without_rows_have_no_limit(
        self, llama: Path, toy: Toy, tmp_path: Path
    ) -> None:
        words = toys(toy("instruction", tmp_path), f"init_from={llama}", "data.sequence_length=300")
        assert "set model.max_length=300; it is 200 in init_from.source" in self.told(words)
        assert model_of([*words, "model.max_length=300"]).max_length == 300
        told = self.told([*words, "init_from.grow_positions=true"])
        assert (
            "init_from.grow_positions = True: expected false, because Rotary has no learned" in told
        )

    @pytest.mark.parametrize(
        ("more", "expected"),
        [
            (
                ["data.sequence_length=64"],
                "false, because the 64 positions in init_from.source are enough",
            ),
            (["init_from.lora.rank=2"], "false, because with init_from.lora"),
            (["init_from.freeze=body"], "false, because the new positions would be frozen"),
            (["init_from.freeze=[pos*]"], "false, because the new positions would be frozen"),
        ],
    )
    def test_rows_that_would_never_be_trained(
        self, bert: Path, toy: Toy, tmp_path: Path, more: list[str], expected: str
    ) -> None:
        words = toys(toy("classification", tmp_path), f"init_from={bert / 'body'}")
        told = self.told(
            [*words, "data.sequence_length=100", "init_from.grow_positions=true", *more]
        )
        assert f"init_from.grow_positions = True: expected {expected}" in told

    def test_nothing_to_grow_from(self, toy: Toy, tmp_path: Path) -> None:
        told = self.told([*toy("classification", tmp_path), "init_from.grow_positions=true"])
        assert (
            "init_from.grow_positions = True: expected no value, as init_from.source is not set "
            "(to load initial weights, set init_from.source=SOURCE)" in told
        )

    def test_a_vocabulary_larger_than_the_models(
        self, bert: Path, toy: Toy, tmp_path: Path
    ) -> None:
        source = tmp_path / "source"
        shutil.copytree(bert / "body", source)
        with (source / "vocab.txt").open("a") as file:
            file.write("further\npieces\n")
        told = self.told(toys(toy("classification", tmp_path / "runs"), f"init_from={source}"))
        assert "at most 59, the number of embeddings in the model" in told or (
            "model.vocab_size = 59: expected at least the tokenizer's 61" in told
        )

    def test_it_changed_before_the_first_step(self, bert: Path, toy: Toy, tmp_path: Path) -> None:
        """The source changes between composing the config and loading the weights."""
        source = tmp_path / "source"
        shutil.copytree(bert / "body", source)
        checked = check_all(compose(toys(toy("classification", tmp_path), f"init_from={source}")))
        module = build_model(checked, 59, 2)
        weights = load_file(source / "model.safetensors")
        config = BertConfig.from_pretrained(source)
        BertForSequenceClassification(config).bert.save_pretrained(source)
        assert weights.keys() == load_file(source / "model.safetensors").keys()
        with pytest.raises(RequestError, match=r"init_from\.source has changed"):
            InitFromSource.fill(module, checked.config.init_from, tmp_path)
