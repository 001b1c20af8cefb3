"""`etude.load_pretrained`: every kind of model from every kind of source."""

from __future__ import annotations

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

import etude
from etude.errors import InvalidArguments, RequestError
from etude.models.language_model import LanguageModel
from etude.models.seq2seq import Seq2Seq
from etude.models.text_encoder import TextEncoder


def test_a_decoder_continues_as_in_transformers(tmp_path: Path) -> None:
    folder = folders.write_gpt2(tmp_path / "gpt2", eos_token_id=None, bos_token_id=None)
    model = etude.load_pretrained(folder)
    assert isinstance(model, LanguageModel)
    theirs = hf.GPT2LMHeadModel.from_pretrained(folder)
    ids = model.tokenizer.encode("the people")
    theirs_text = theirs.generate(
        torch.tensor([ids]), max_new_tokens=12, do_sample=False, pad_token_id=0
    )
    ours = model.generate("the people", greedy=True, max_new_tokens=12)
    written = theirs_text[0].tolist()
    end = model.tokenizer.end_of_text
    stop = written.index(end) if end in written else len(written)
    assert ours == model.tokenizer.decode(written[:stop])


def test_its_texts_begin_and_end_as_the_files_say(tmp_path: Path) -> None:
    tokenizer = folders.framed(folders.wordpiece())
    model = zoo.gpt2(vocab_size=tokenizer.vocab_size)
    folder = folders.write_folder(tmp_path / "gpt2", model, tokenizer, eos_token_id=[7, 9])
    found = etude.load_pretrained(folder)
    assert isinstance(found, LanguageModel)
    special = tokenizer.special_tokens()
    assert found.stop_tokens == [special["[SEP]"], 7, 9]
    assert found.begin_token == special["[CLS]"]


def test_one_file_and_its_folder_are_the_same_in_another_format(tmp_path: Path) -> None:
    folder = folders.write_gpt2(tmp_path / "gpt2")
    whole = etude.load_pretrained(str(folder / "model.safetensors"), dtype="bfloat16")
    assert whole.module.embedding.weight.dtype == torch.bfloat16
    same = etude.load_pretrained(folder).module.to(torch.bfloat16)
    for a, b in zip(whole.module.parameters(), same.parameters(), strict=True):
        assert torch.equal(a, b)


def test_an_encoder_reads_texts_of_different_lengths(tmp_path: Path) -> None:
    tokenizer = folders.framed(folders.wordpiece())
    bert = zoo.bert(hf.BertModel, vocab_size=tokenizer.vocab_size)
    folder = folders.write_folder(tmp_path / "bert", bert, tokenizer)
    model = etude.load_pretrained(folder)
    assert isinstance(model, TextEncoder)
    output, keep = model.read(folders.TEXT)
    theirs = hf.BertModel.from_pretrained(folder).eval()
    rows = [theirs(torch.tensor([ids])).last_hidden_state[0] for ids in
            model.tokenizer.framed(folders.TEXT)]  # fmt: skip
    assert keep.sum(1).tolist() == [len(row) for row in rows]
    for row, mine, kept in zip(rows, output, keep, strict=True):
        assert torch.allclose(mine[kept], row, atol=1e-5)
    means = torch.stack([row.mean(0) for row in rows])
    assert torch.allclose(model.mean(folders.TEXT), means, atol=1e-5)
    long = model.read("war " * 100)
    assert long.output.shape[1] == zoo.MAX
    for wrong, message in (([], "at least one text"), ([5], "a string or a list of strings")):
        with pytest.raises(InvalidArguments, match=rf"texts = .*: expected {message}"):
            model.mean(wrong)


def test_an_encoder_decoder_writes_as_in_transformers(tmp_path: Path) -> None:
    tokenizer = folders.closed(folders.bpe())
    end = tokenizer.end_of_text
    sizes = {"vocab_size": tokenizer.vocab_size, "num_decoder_layers": zoo.L}
    t5 = zoo.t5(**sizes, eos_token_id=end, pad_token_id=0)
    folder = folders.write_folder(tmp_path / "t5", t5, tokenizer)
    model = etude.load_pretrained(folder)
    assert isinstance(model, Seq2Seq)
    theirs = hf.T5ForConditionalGeneration.from_pretrained(folder)
    source = torch.tensor([[*tokenizer.encode("peace"), end]])
    written = theirs.generate(source, max_new_tokens=8, do_sample=False)[0].tolist()[1:]
    stop = written.index(end) if end in written else len(written)
    ours = model.generate("peace", greedy=True, max_new_tokens=8)
    assert ours == tokenizer.decode(written[:stop])


def test_no_part_of_it_needs_transformers_or_lightning(tmp_path: Path) -> None:
    folder = folders.write_gpt2(tmp_path / "gpt2")
    code = (
        "import sys\n"
        "for name in ('transformers', 'pytorch_lightning', 'datasets'):\n"
        "    sys.modules[name] = None\n"
        "import etude\n"
        "print(len(etude.load_pretrained(sys.argv[1]).generate('war', max_new_tokens=3)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 3


NO_TOKENIZER = {
    "missing": (None, "expected a tokenizer: one of tokenizer.json"),
    "too large": (folders.bpe, "the tokenizer = 300: expected at most 37,"),
}


@pytest.mark.parametrize(("tokenizer", "reason"), NO_TOKENIZER.values(), ids=NO_TOKENIZER)
def test_a_decoder_without_a_tokenizer_takes_ids(
    tmp_path: Path, tokenizer: Any, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = None if tokenizer is None else tokenizer()
    folder = folders.write_folder(tmp_path / "gpt2", zoo.gpt2(), made)
    model = etude.load_pretrained(folder)
    assert f"no tokenizer, the model accepts only token ids: {folder}" in caplog.text
    assert reason in caplog.text
    theirs = hf.GPT2LMHeadModel.from_pretrained(folder)
    prompts = [[5, 6, 7], [9]]
    for ids, ours in zip(
        prompts, model.generate_ids(prompts, greedy=True, max_new_tokens=6), strict=True
    ):
        tokens = torch.tensor([ids])
        written = theirs.generate(tokens, max_new_tokens=6, do_sample=False, eos_token_id=None)
        expected = written[0, len(ids) :].tolist()
        end = next((n for n, token in enumerate(expected) if token in model.stop_tokens), 6)
        assert ours == expected[:end]
    assert torch.allclose(model([5, 6, 7]), theirs(torch.tensor([[5, 6, 7]])).logits[0], atol=1e-5)
    sampled = model.generate_ids(prompts, samples=2, seed=1, max_new_tokens=4)
    assert len(sampled) == 4
    assert sampled[2:] == model.generate_ids([[9]], samples=2, seed=1, max_new_tokens=4)
    model.generate_ids(torch.tensor([[1, 2]]), max_new_tokens=1)
    assert len(model.sites()) > 10
    for use in (lambda: model.generate("war"), lambda: model.tokenizer.decode([1])):
        with pytest.raises(RequestError, match=f"tokenizer: .*pass token ids[\\s\\S]*{reason}"):
            use()


def test_other_kinds_without_a_tokenizer_take_ids(tmp_path: Path) -> None:
    t5 = zoo.t5(num_decoder_layers=zoo.L, eos_token_id=1, pad_token_id=0)
    model = etude.load_pretrained(folders.write_folder(tmp_path / "t5", t5, None))
    theirs = hf.T5ForConditionalGeneration.from_pretrained(tmp_path / "t5")
    written = theirs.generate(torch.tensor([[5, 6, 1]]), max_new_tokens=6, do_sample=False)
    (ours,) = model.generate_ids([[5, 6, 1]], greedy=True, max_new_tokens=6)
    assert [0, *ours] == [token for token in written[0].tolist() if token != 1]
    bert = folders.write_folder(tmp_path / "bert", zoo.bert(hf.BertModel), None)
    encoder = etude.load_pretrained(bert)
    states = hf.BertModel.from_pretrained(bert)(torch.tensor([[5, 6, 7]])).last_hidden_state
    assert torch.allclose(encoder.module(torch.tensor([[5, 6, 7]])), states, atol=1e-5)
    with pytest.raises(RequestError, match="pass token ids"):
        encoder.mean("war")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompts": []}, "prompts = []: expected at least one prompt, each with at least one id"),
        ({"prompts": [[1], []]}, "prompts = [[1], []]"),
        ({"prompts": [[1]], "temprature": 1}, "(did you mean temperature?)"),
        ({"prompts": [[1]], "top_p": 2.0}, "top_p = 2.0"),
        ({"prompts": "war"}, "prompts = 'war': expected a list of lists of integers or a Tensor"),
    ],
)
def test_wrong_arguments_of_generate_ids(
    arguments: dict[str, Any], message: str, tmp_path: Path
) -> None:
    model = etude.load_pretrained(folders.write_folder(tmp_path / "gpt2", zoo.gpt2(), None))
    with pytest.raises(InvalidArguments, match=re.escape(message)):
        model.generate_ids(**arguments)


@pytest.mark.parametrize(
    ("source", "more", "said"),
    [
        ("no/such/folder", {}, "source = 'no/such/folder': expected a folder with config.json"),
        ("gone.gguf", {}, "source = 'gone.gguf'.*no such path"),
        ("{folder}", {"dtype": "float8"}, "dtype = 'float8': expected one of float32"),
        ("{folder}", {"dtype": torch.int8}, "dtype = 'torch.int8': expected one of float32"),
        (
            "{folder}",
            {"device": "nowhere"},
            "device = 'nowhere': expected a device that exists on this machine",
        ),
        ("{folder}", {"device": 5.5}, "device = '5.5': expected a device that exists"),
        (
            "{folder}",
            {"revision": "main"},
            "revision = 'main': expected no value, since the source is a local path",
        ),
        ("{empty}", {}, "expected a folder with config.json and weights"),
        ("{run}", {}, "this folder contains a run; to load a run, use etude.load_run"),
    ],
)
def test_what_cannot_be_read_is_told(
    source: str, more: dict[str, Any], said: str, tmp_path: Path
) -> None:
    places: dict[str, Callable[[], Path]] = {
        "folder": lambda: folders.write_gpt2(tmp_path / "folder"),
        "empty": lambda: tmp_path,
        "run": lambda: _with(tmp_path / "run.json"),
    }
    name = source.strip("{}")
    path = str(places[name]()) if source.startswith("{") else source
    with pytest.raises(RequestError, match=said) as caught:
        etude.load_pretrained(path, **more)
    assert len(caught.value.problems) == 1


def _with(file: Path) -> Path:
    file.write_text("{}")
    return file.parent
