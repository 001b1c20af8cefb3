"""`etude convert`: its output, its measurements and its errors."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "interop"))
import folders
import transformers as hf
import zoo
from ggufs import write_gguf

import etude as package
from etude.interop import logit_comparison

Command = Callable[..., Any]
LINE = re.compile(r"(.+) by (\w+) +largest (\S+)  mean (\S+)  \(logits up to (\S+)\)")


def measured(out: str) -> dict[str, tuple[float, float]]:
    """Returns the printed differences."""
    return {
        f"{found[1].strip()} by {found[2]}": (float(found[3]), float(found[4]))
        for line in out.splitlines()
        if (found := LINE.fullmatch(line))
    }


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        ("llama llama3", hf.LlamaForCausalLM),
        ("gpt_neox", hf.GPTNeoXForCausalLM),
        ("bert body", hf.BertModel),
        ("bert pretraining", hf.BertForPreTraining),
        ("roberta classes", hf.RobertaForSequenceClassification),
        ("t5 1.1", hf.T5ForConditionalGeneration),
        ("marian", hf.MarianMTModel),
    ],
)
def test_a_folder_comes_out_as_it_went_in(
    name: str, cls: Any, etude: Command, tmp_path: Path
) -> None:
    model = zoo.randomised(zoo.ALL[name]())
    model.save_pretrained(tmp_path / "source")
    done = etude("convert", tmp_path / "source", tmp_path / "dest")
    assert done.code == 0, done.err
    found = measured(done.out)
    assert set(found) == {"source by transformers", "dest by transformers"}
    assert all(mean <= largest < 1e-4 for largest, mean in found.values())
    assert f"written: {tmp_path / 'dest'}" in done.out
    again = cls.from_pretrained(tmp_path / "dest").state_dict()
    assert again.keys() == model.state_dict().keys()
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, again[key]), key
    assert not list(tmp_path.glob(".*"))


def test_the_files_for_text_come_along(etude: Command, tmp_path: Path) -> None:
    source = folders.write_gpt2(tmp_path / "source")
    (source / "tokenizer_config.json").write_text('{"model_max_length": 7, "add_bos_token": false}')
    assert etude("convert", source / "model.safetensors", tmp_path / "dest").code == 0
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (tmp_path / "dest" / name).read_bytes() == (source / name).read_bytes()
    text = "the people of 1862"
    assert hf.AutoTokenizer.from_pretrained(tmp_path / "dest")(text)["input_ids"] == (
        package.load_pretrained(source).tokenizer.encode(text)
    )


def test_a_gguf_becomes_a_folder_with_its_tokenizer(etude: Command, tmp_path: Path) -> None:
    tokenizer = folders.bpe()
    end = tokenizer.end_of_text
    model = zoo.randomised(zoo.llama(vocab_size=tokenizer.vocab_size, hidden_size=64))
    file = write_gguf(tmp_path / "m.gguf", model, tokenizer=tokenizer, end=end)
    done = etude("convert", file, tmp_path / "dest")
    assert done.code == 0, done.err
    assert "dest by transformers" in measured(done.out)
    assert (
        "the source model's logits in transformers are not compared: " in done.out
        or "source by transformers" in done.out
    )
    theirs = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "dest")
    ids = torch.arange(12)[None]
    assert torch.allclose(theirs(ids).logits, model(ids).logits, atol=1e-3)
    assert theirs.config.eos_token_id == end
    spelt = hf.AutoTokenizer.from_pretrained(tmp_path / "dest")
    assert spelt("peace and war")["input_ids"] == tokenizer.encode("peace and war")
    assert spelt.eos_token_id == end


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory,
    etude: Command,
    tiny: Callable[..., list[str]],
    write_corpus: Callable[..., Path],
) -> Path:
    """Three runs, named for their parts."""
    root = tmp_path_factory.mktemp("converted")
    corpus = write_corpus(root / "corpus.txt")
    llama = ["model/position=rotary", "model/norm=rmsnorm", "model/feedforward=swiglu"]
    for name, parts in {
        "gpt2_like": ["data/tokenizer=bpe", "data.tokenizer.vocab_size=280", "model.bias=true"],
        "llama_like": [*llama, "model.bias=false"],
        "odd": ["model/position=alibi", "model.bias=true"],
    }.items():
        done = etude("train", *tiny(corpus, root, *parts, f"name={name}"))
        assert done.code == 0, done.err
    return root


@pytest.mark.parametrize(
    ("name", "cls"), [("gpt2_like", hf.GPT2LMHeadModel), ("llama_like", hf.LlamaForCausalLM)]
)
def test_a_run_becomes_a_folder_that_transformers_opens(
    name: str, cls: Any, runs: Path, etude: Command, tmp_path: Path
) -> None:
    done = etude("convert", name, tmp_path / "dest", "--root", runs)
    assert done.code == 0, done.err
    assert set(measured(done.out)) == {"dest by transformers"}
    (record,) = (runs / name).iterdir()
    model = package.load_run(record).model()
    theirs = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "dest")
    assert type(theirs) is cls
    tokenizer = hf.AutoTokenizer.from_pretrained(tmp_path / "dest")
    text = "the quick brown fox"
    ids = tokenizer(text)["input_ids"]
    assert ids == model.tokenizer.encode(text)
    assert theirs.config.eos_token_id == tokenizer.eos_token_id == model.tokenizer.end_of_text
    assert torch.allclose(theirs(torch.tensor([ids[:8]])).logits[0], model(ids[:8]), atol=1e-5)
    back = package.load_pretrained(tmp_path / "dest")
    assert torch.equal(back(ids[:8]), model(ids[:8]))


def test_parts_that_no_family_has_are_named(runs: Path, etude: Command, tmp_path: Path) -> None:
    done = etude("convert", "odd", tmp_path / "dest", "--root", runs)
    assert done.code == 2
    assert "ALiBi" in done.err
    assert "as gpt2" in done.err
    assert not list(tmp_path.iterdir())


def test_a_mistake_above_the_tolerance_leaves_nothing(
    etude: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folders.write_gpt2(tmp_path / "source")
    kept = (tmp_path / "dest" / "config.json", "{}")
    kept[0].parent.mkdir()
    kept[0].write_text(kept[1])
    exact = logit_comparison.logits_of
    monkeypatch.setattr(logit_comparison, "logits_of", lambda *a: exact(*a) + 2e-4)
    words = ("convert", source, tmp_path / "dest", "--force")
    done = etude(*words)
    assert done.code == 1
    assert "logits differ from Étude's by more than 0.0001: source by transformers and" in done.err
    assert "written: " not in done.out
    assert kept[0].read_text() == kept[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dest", "source"]
    assert etude(*words, "--tolerance", "1e-3").code == 0
    assert json.loads(kept[0].read_text())["model_type"] == "gpt2"


def test_rounding_is_told_apart_from_mistakes(etude: Command, tmp_path: Path) -> None:
    source = folders.write_gpt2(tmp_path / "source")
    done = etude("convert", source, tmp_path / "dest", "--dtype", "bfloat16")
    assert done.code == 0, done.err
    assert all(largest < 1e-9 for largest, _ in measured(done.out).values())
    assert re.search(
        r"rounding to bfloat16 changes the logits by at most \d\.\d+, \d\.\d+", done.out
    )
    theirs = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "dest")
    assert theirs.dtype == torch.bfloat16


def test_without_transformers_it_is_read_again_and_said(tmp_path: Path) -> None:
    source = folders.write_gpt2(tmp_path / "source")
    code = (
        "import sys, importlib.util as util\n"
        "find = util.find_spec\n"
        "sys.modules['transformers'] = None\n"
        "util.find_spec = lambda n, *a: None if n == 'transformers' else find(n, *a)\n"
        "from etude import cli\n"
        "sys.exit(cli.run(sys.argv[1:]))\n"
    )
    words = [sys.executable, "-c", code, "convert", str(source), str(tmp_path / "dest")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "transformers is not installed: Étude loads the exported model instead" in done.stdout
    assert measured(done.stdout) == {"dest by Étude": (0.0, 0.0)}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("{source}", "{source}"), "DEST = .*expected a path that does not exist yet"),
        (("{source}", "{source}", "--force"), "DEST = .*expected a folder other than SOURCE"),
        (
            ("{source}", "{full}", "--force"),
            "expected an empty folder, or the folder of a model with config.json",
        ),
        (
            ("{source}", "{full}/a.txt", "--force"),
            "expected an empty folder, or the folder of a model with config.json",
        ),
        (("{source}", "no/where/dest"), "DEST = 'no/where/dest': expected a path in an existing"),
        (
            ("{source}", "{run}/checkpoints/dest"),
            "DEST = .*expected a path outside the folders of runs, sweeps and papers",
        ),
        (("{source}", "dest", "--tolerance", "0"), "--tolerance = 0.0: expected a positive number"),
        (("{source}", "dest", "--dtype", "float23"), "dtype = 'float23'.*did you mean float32"),
        (("{full}", "dest"), "expected a folder with config.json and weights"),
        (("./gone", "dest"), "SOURCE = './gone': expected a folder with config.json and weights"),
    ],
)
def test_what_cannot_be_done_is_refused(
    words: tuple[str, ...], said: str, etude: Command, tmp_path: Path
) -> None:
    places = {"{source}": folders.write_gpt2(tmp_path / "source"), "{full}": tmp_path / "full"}
    places["{full}"].mkdir()
    (places["{full}"] / "a.txt").write_text("mine")
    places["{run}"] = tmp_path / "name" / "signature"
    (places["{run}"] / "checkpoints").mkdir(parents=True)
    (places["{run}"] / "run.json").write_text("{}")
    asked = list(words)
    for key, place in places.items():
        asked = [word.replace(key, str(place)) for word in asked]
    before = sorted(tmp_path.rglob("*"))
    done = etude("convert", *asked, cwd=tmp_path)
    assert done.code == 2
    assert re.search(said, done.err)
    assert sorted(tmp_path.rglob("*")) == before
