"""Every file under conf/data composes, and states arguments of the class that it names."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from omegaconf import ListConfig, OmegaConf

from etude.config.nodes import check_node
from etude.data.pretrained import Pretrained
from etude.data.synthetic.base import SyntheticData
from etude.data.text import Batch, TextData
from etude.data.tokenizer import BPE, Byte, Char
from etude.data.unigram import Unigram
from etude.data.wordpiece import WordPiece

CONF = Path(__file__).parents[2] / "conf" / "data"
ROWS = {path.stem for path in CONF.glob("*.yaml") if "data.examples." in path.read_text()}
MADE = sorted(p.stem for p in CONF.glob("*.yaml") if "data.synthetic." in p.read_text())
CORPORA = sorted({path.stem for path in CONF.glob("*.yaml")} - ROWS - {*MADE})
TOKENIZERS = {
    "char": Char(),
    "byte": Byte(),
    "bpe": BPE(2048),
    "unigram": Unigram(2048),
    "wordpiece": WordPiece(2048, lowercase=True),
    "pretrained": Pretrained("tokenizer.json"),
}
NEEDED_BY_TOKENIZERS = {"pretrained": ["tokenizer.path=tokenizer.json"]}
NEEDED = {
    "text_files": ["path=some.txt"],
    "hub_text": ["name=owner/name"],
    "streamed": ["source.path=some.txt"],
}


def build(corpus: str, *overrides: str) -> Any:
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose(corpus, [*NEEDED.get(corpus, []), *overrides])
    plain: Any = OmegaConf.to_container(config, resolve=True)
    node, problems = check_node("data", plain, [])
    assert problems == []
    with torch.device("meta"):
        built = node.build()
    assert isinstance(built, SyntheticData if corpus in MADE else TextData)
    return built


@pytest.mark.parametrize("corpus", CORPORA)
def test_every_corpus_builds_as_nanogpt_cuts_its_batches(corpus: str) -> None:
    data = build(corpus)
    assert (data.sequence_length, data.batch) == (64, Batch(examples=12))
    assert data.recipe == Char()


@pytest.mark.parametrize("corpus", CORPORA)
@pytest.mark.parametrize("tokenizer", sorted(path.stem for path in CONF.glob("tokenizer/*.yaml")))
def test_every_tokenizer_fits_every_corpus(corpus: str, tokenizer: str) -> None:
    more = NEEDED_BY_TOKENIZERS.get(tokenizer, [])
    assert build(corpus, f"tokenizer={tokenizer}", *more).recipe == TOKENIZERS[tokenizer]


@pytest.mark.parametrize("name", MADE)
def test_every_rule_is_stated_whole_with_the_values_that_it_has(name: str) -> None:
    data: Any = build(name)
    stated = OmegaConf.load(CONF / f"{name}.yaml")
    usual = inspect.signature(type(data)).parameters
    assert set(stated) - {"_target_"} == set(usual)
    for key, parameter in usual.items():
        if key != "batch":
            value = stated[key]
            plain = tuple(value) if isinstance(value, ListConfig) else value
            assert plain == parameter.default, key


@pytest.mark.parametrize("path", sorted(CONF.rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_file_opens_with_a_line_about_it(path: Path) -> None:
    first, second = path.read_text().splitlines()[:2]
    assert first.startswith("# ")
    assert first.endswith(".")
    assert not second.startswith("#")
