from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections import Counter
from itertools import groupby
from pathlib import Path

import pytest
import tokenizers
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from etude.data.tokenizer import BPE, Byte, Char, Recipe, Tokenizer
from etude.errors import InvalidArguments, RequestError

TEXT = (
    "From fairest creatures we desire increase,\nThat thereby beauty's rose might never die,\n"
    "But as the riper should by time decease,\r\nHis tender heir might bear his memory: ☕ 茶\n"
) * 20
RECIPES = [Char(), Byte(), BPE(300)]
HARD = "naïve e\u0301 🙂👩‍👩‍👧 \r\n\0\t  \u200b\u2028 <|endoftext|> 'tis they'll"


@pytest.fixture(scope="module", params=RECIPES, ids=lambda recipe: type(recipe).__name__)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    recipe: Recipe = request.param
    return recipe.train([TEXT, HARD])


class TestRoundTrip:
    @pytest.mark.parametrize("recipe", [Byte(), BPE(300)])
    def test_any_text_survives_a_byte_level_tokenizer(self, recipe: Recipe) -> None:
        tokenizer = recipe.train([TEXT])

        @given(st.text())
        @example(HARD)
        def survives(text: str) -> None:
            assert tokenizer.decode(tokenizer.encode(text)) == text

        survives()

    @given(text=st.text(alphabet=sorted(set(TEXT + HARD))))
    @example(text=HARD)
    def test_known_characters_survive_char(self, text: str) -> None:
        tokenizer = _char()
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert len(ids) == len(text)

    def test_the_letters_of_a_special_token_are_ordinary_text(self, tokenizer: Tokenizer) -> None:
        ids = tokenizer.encode("a<|endoftext|>b")
        assert tokenizer.end_of_text not in ids
        assert tokenizer.decode(ids) == "a<|endoftext|>b"

    def test_a_batch_is_its_texts_one_by_one(self, tokenizer: Tokenizer) -> None:
        texts = [TEXT[:50], "", HARD]
        assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]


class TestIds:
    def test_char_ids_are_places_in_the_sorted_character_set(self) -> None:
        characters = sorted(set(TEXT + HARD))
        tokenizer = _char()
        assert tokenizer.encode(TEXT) == [characters.index(character) for character in TEXT]
        assert (tokenizer.end_of_text, tokenizer.unknown) == (len(characters), len(characters) + 1)
        assert tokenizer.vocab_size == len(characters) + 2

    def test_each_unknown_character_is_one_unknown_token(self) -> None:
        tokenizer = Char().train(["abc"])
        assert tokenizer.encode("aθθbж") == [0, tokenizer.unknown, tokenizer.unknown, 1, 4]
        assert tokenizer.decode(tokenizer.encode("aж")) == "a<unk>"
        assert tokenizer.unknown_pieces("aθθbж") == Counter("θθж")

    @given(st.text())
    @example(HARD)
    def test_byte_ids_are_the_bytes(self, text: str) -> None:
        assert _byte().encode(text) == list(text.encode())

    def test_bytes_come_with_an_end_of_text_and_nothing_unknown(self) -> None:
        tokenizer = _byte()
        assert (tokenizer.vocab_size, tokenizer.end_of_text, tokenizer.unknown) == (257, 256, None)
        assert tokenizer.unknown_pieces(HARD) == Counter()

    def test_bpe_lays_out_ids_as_gpt2_does(self) -> None:
        tokenizer = BPE(300).train([TEXT])
        assert tokenizer.vocab_size == 300
        assert tokenizer.end_of_text == 299
        # GPT-2's encoder.json begins "!": 0, "\"": 1, ... and has a space, "Ġ", at 220.
        assert tokenizer.backend.token_to_id("!") == 0
        assert tokenizer.backend.token_to_id("Ġ") == 220

    def test_bpe_merges_the_most_frequent_pair_first(self) -> None:
        text = "abab abab abab cd cd"
        tokenizer = BPE(258).train([text])  # room for one merge
        pairs = Counter(word[i : i + 2] for word in text.split(" ") for i in range(len(word) - 1))
        assert pairs.most_common(1)[0][0] == "ab"
        assert tokenizer.backend.id_to_token(256) == "ab"

    def test_bpe_splits_as_gpt2_does(self) -> None:
        tokenizer = BPE(257 + 40).train(["they'll they'll 42 42  x"] * 10)
        tokens = [tokenizer.decode([i]) for i in tokenizer.encode("they'll 42  x")]
        assert "they" in tokens
        assert "'ll" in tokens
        assert " 42" in tokens  # a space belongs to the word after it

    def test_a_small_text_gives_fewer_tokens_and_a_warning(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert BPE(8192).train(["ab ab"]).vocab_size == 258
        assert "vocab_size" in caplog.text

    @pytest.mark.parametrize("size", [-1, 0, 256, 2**20 + 1, 2**40, 2**70])
    def test_a_vocabulary_must_hold_all_bytes_and_fit_into_memory(self, size: int) -> None:
        with pytest.raises(InvalidArguments, match=f"vocab_size = {size}: expected at least 257"):
            BPE(size)

    def test_where_a_text_may_be_cut(self) -> None:
        cuts = [recipe.train([TEXT]).cuts for recipe in RECIPES]
        assert cuts == ["anywhere", "anywhere", "at_spaces"]
        assert not any(recipe.train([TEXT]).rewrites for recipe in RECIPES)
        prefixed = BPE(300).train([TEXT])
        prefixed.backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        assert Tokenizer(prefixed.backend).rewrites
        assert Tokenizer(prefixed.backend).cuts == "unknown"


class TestFirstTokenBytes:
    @given(text=st.text(min_size=1))
    def test_a_byte_token_is_one_byte(self, text: str) -> None:
        assert _byte().first_token_bytes(text) == 1

    @pytest.mark.parametrize("character", ["a", "é", "茶", "🙂"])
    def test_a_character_has_its_utf8_length_known_or_not(self, character: str) -> None:
        for tokenizer in (Char().train([character]), Char().train(["z"])):
            assert tokenizer.first_token_bytes(character + "z") == len(character.encode())

    def test_a_merged_token_has_the_bytes_of_its_parts(self) -> None:
        tokenizer = BPE(300).train(["茶茶茶 茶茶茶 "] * 9)
        first = tokenizer.encode("茶茶")[0]
        assert tokenizer.first_token_bytes("茶茶") == len(tokenizer.decode([first]).encode())
        assert tokenizer.first_token_bytes("茶茶") >= 3

    def test_an_empty_text_has_none(self, tokenizer: Tokenizer) -> None:
        assert tokenizer.first_token_bytes("") == 0


class TestFiles:
    def test_a_saved_tokenizer_loads_as_it_was(self, tokenizer: Tokenizer, tmp_path: Path) -> None:
        tokenizer.save(tmp_path / "tokenizer.json")
        loaded = Tokenizer.load(tmp_path / "tokenizer.json")
        assert loaded.encode(HARD) == tokenizer.encode(HARD)
        assert loaded.fingerprint == tokenizer.fingerprint
        assert loaded.end_of_text == tokenizer.end_of_text
        assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]

    def test_a_pickled_tokenizer_still_takes_special_letters_as_text(
        self, tokenizer: Tokenizer
    ) -> None:
        copy = pickle.loads(pickle.dumps(tokenizer))
        assert copy.encode(HARD) == tokenizer.encode(HARD)

    def test_transformers_reads_the_file(self, tokenizer: Tokenizer, tmp_path: Path) -> None:
        transformers = pytest.importorskip("transformers")
        tokenizer.save(tmp_path / "tokenizer.json")
        theirs = transformers.PreTrainedTokenizerFast(
            tokenizer_file=str(tmp_path / "tokenizer.json")
        )
        assert theirs.encode(TEXT, add_special_tokens=False) == tokenizer.encode(TEXT)

    @pytest.mark.parametrize("content", [b"", b"{}", b"{", b"\xff\xfe", b'{"version": "1.0"}'])
    def test_a_broken_file_is_named(self, content: bytes, tmp_path: Path) -> None:
        path = tmp_path / "tokenizer.json"
        path.write_bytes(content)
        with pytest.raises(RequestError, match=r"tokenizer\.json"):
            Tokenizer.load(path)

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(RequestError, match=r"nowhere\.json"):
            Tokenizer.load(tmp_path / "nowhere.json")

    def test_the_fingerprint_tells_vocabularies_apart(self) -> None:
        tokenizers = [Char().train(["ab"]), Char().train(["abc"]), _byte(), BPE(260).train([TEXT])]
        assert len({tokenizer.fingerprint for tokenizer in tokenizers}) == 4
        assert Char().train(["ba", "b"]).fingerprint == Char().train(["ab"]).fingerprint


def test_training_bpe_gives_the_same_in_other_processes_and_threads(tmp_path: Path) -> None:
    # Rust's hash maps are seeded a process; ties between pairs must not depend on them.
    (tmp_path / "text.json").write_text(json.dumps(TEXT * 3))
    code = (
        "import json, sys; from etude.data.tokenizer import BPE;"
        "text = json.load(open(sys.argv[1]));"
        "print(BPE(500).train([text]).fingerprint)"
    )
    prints = {
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "text.json")],
            env={**os.environ, "RAYON_NUM_THREADS": threads},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for threads in ("1", "2", "4")
    }
    assert prints == {BPE(500).train([TEXT * 3]).fingerprint + "\n"}


def test_settings_tell_recipes_apart() -> None:
    settings = [Char().settings(), Byte().settings(), BPE(300).settings(), BPE(301).settings()]
    assert len({json.dumps(setting) for setting in settings}) == 4


_CACHE: dict[str, Tokenizer] = {}


def _char() -> Tokenizer:
    return _CACHE.setdefault("char", Char().train([TEXT, HARD]))


def _byte() -> Tokenizer:
    return _CACHE.setdefault("byte", Byte().train([]))


class TestLostByTheLibrary:
    """What `tokenizers` decodes to U+FFFD although it was whole, decoded byte by byte in Python."""

    @staticmethod
    def falling_back() -> Tokenizer:
        numbers = {piece: number for number, piece in enumerate(["<unk>", "▁", "a", "▁a"])}
        numbers |= {f"<0x{byte:02X}>": 4 + byte for byte in range(256)}
        model = models.BPE(numbers, [("▁", "a")], unk_token="<unk>", byte_fallback=True)
        backend = tokenizers.Tokenizer(model)
        steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        backend.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
        return Tokenizer(backend)

    @given(
        st.lists(st.one_of(st.integers(1, 259), st.sampled_from([*"é🙂▁茶".encode()])), max_size=9)
    )
    def test_single_bytes(self, ids: list[int]) -> None:
        spelt = {1: b" ", 2: b"a", 3: b" a"}
        text = ""
        for is_byte, run in groupby(ids, lambda number: number >= 4):
            pieces = [bytes([n - 4]) if is_byte else spelt[n] for n in run]
            text += b"".join(pieces).decode(errors="replace")
        assert self.falling_back().decode(ids) == text.removeprefix(" ")

    def test_a_whole_letter_before_half_of_one(self) -> None:
        tokenizer = self.falling_back()
        ids = [4 + byte for byte in "🙂".encode()]
        assert tokenizer.decode([3, *ids, 4 + 0xF0]) == "a🙂\ufffd"
        assert tokenizer.backend.decode([3, *ids, 4 + 0xF0]) == "a" + 5 * "\ufffd"

    def test_added_tokens_of_letters_that_stand_for_bytes(self) -> None:
        tokenizer = BPE(vocab_size=300).train(["the café " * 50])
        tokenizer.backend.add_tokens([AddedToken(name, normalized=False) for name in ("fée", "Ġ")])
        tokenizer = Tokenizer(tokenizer.backend)
        text = "the fée's café "
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert tokenizer.decode([*tokenizer.encode("fée"), tokenizer.encode("ß")[0]]) == "fée\ufffd"
        space = tokenizer.encode(" ")
        assert tokenizer.decode(space) == " "  # the model's own token for a space has that name
