"""What the columns of CoNLL files are, and what their tags mean."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from seqeval.scheme import BILOU, IOB1, IOB2, IOBES, Entities

from etude.data.examples.schemes import MARKS, TagInspection
from etude.data.examples.source import Row
from etude.data.examples.tagged import Tagged
from etude.data.text import Batch
from etude.data.tokenizer import Char
from etude.errors import RequestError
from etude.tasks.counts import are_spans, spans
from etude.tasks.tagging import TagObjective

Sentences = list[tuple[list[str], list[str]]]


def tagged(path: Path | list[Path], **more: Any) -> Tagged:
    paths = [str(each) for each in path] if isinstance(path, list) else str(path)
    sizes: dict[str, Any] = {"sequence_length": 48, "batch": Batch(examples=4)}
    data = Tagged(path=paths, tokenizer=Char(), **sizes, **more)
    data.for_task(TagObjective())
    return data


def sentences(path: Path, content: str, **more: Any) -> Sentences:
    path.write_text(content, encoding="utf-8")
    data = tagged(path, **more)
    data.check()
    return [(row.values["words"], row.values["tags"]) for row in data._read_rows("train")]


def refused(path: Path, content: str, **more: Any) -> str:
    with pytest.raises(RequestError) as caught:
        sentences(path, content, **more)
    return str(caught.value).removeprefix(str(path))


class TestColumns:
    def test_spaces_belong_to_words_between_tabs(self, tmp_path: Path) -> None:
        content = "New York\tNNP\tB-LOC\n10\u00a0000\tCD\tO\n\u3000\tSP\tO\n\n"
        assert sentences(tmp_path / "a.conll", content) == [
            (["New York", "10\u00a0000", "\u3000"], ["B-LOC", "O", "O"])
        ]

    def test_a_no_break_space_belongs_to_its_word_between_spaces_too(self, tmp_path: Path) -> None:
        content = "10\u00a0000   CD  O\nyes UH O \n"
        assert sentences(tmp_path / "a.conll", content) == [(["10\u00a0000", "yes"], ["O", "O"])]

    def test_a_line_with_fewer_columns_is_refused(self, tmp_path: Path) -> None:
        content = "U.N. NNP B-ORG\nofficial NN\nsaid VBD O\n"
        told = refused(tmp_path / "a.conll", content)
        assert told.startswith(", line 2 = 'official NN': expected a word in column 0 and its tag")
        assert "in column 2, of 3 space-separated columns" in told
        told = refused(tmp_path / "a.conll", content.replace(" ", "\t"))
        assert told.startswith(", line 2 = 'official\\tNN'")

    @pytest.mark.parametrize("line", ["\tNN\tO", "word\tNN\t", " \tNN\tO"])
    def test_an_empty_cell_is_refused(self, line: str, tmp_path: Path) -> None:
        assert ", line 2" in refused(tmp_path / "a.conll", f"x\tNN\tO\n{line}\n")

    def test_tabs_and_spaces_in_one_file_have_to_be_stated(self, tmp_path: Path) -> None:
        content = "cat\tN\nruns V\n"
        assert "data.separator=space" in refused(tmp_path / "a.conll", content)
        found = sentences(tmp_path / "a.conll", content, separator="space")
        assert found == [(["cat", "runs"], ["N", "V"])]

    def test_a_column_that_numbers_the_words_is_no_word(self, tmp_path: Path) -> None:
        """GermEval's files, and CoNLL-X's, begin with a number."""
        content = "1\tSchartau\tB-PER\n2\tsagte\tO\n\n1\tEr\tO\n"
        told = refused(tmp_path / "a.tsv", content)
        assert told.startswith(
            "data.words: expected the number of the column with the words, because column 0"
        )
        assert "column 0 is '1', column 1 is 'Schartau', column 2 is 'B-PER'" in told
        assert sentences(tmp_path / "a.tsv", content, words=1)[0][0] == ["Schartau", "sagte"]

    def test_columns_the_other_way_round_have_to_be_stated(self, tmp_path: Path) -> None:
        content = "N cat\nV runs\nN dog\nV sits\n"
        told = refused(tmp_path / "a.conll", content)
        assert "expected explicit values of data.words and data.tags" in told
        found = sentences(tmp_path / "a.conll", content, words=1, tags=0)
        assert found == [(["cat", "runs", "dog", "sits"], ["N", "V", "N", "V"])]

    def test_files_of_one_data_set_agree(self, tmp_path: Path) -> None:
        four, three = tmp_path / "a.conll", tmp_path / "b.conll"
        four.write_text("U.N. NNP I-NP I-ORG\nsaid VBD I-VP O\n")
        three.write_text("U.N. NNP I-ORG\nsaid VBD O\n")
        message = rf"{three}: expected 4 columns, as in {four}, not 3"
        with pytest.raises(RequestError, match=message):
            tagged([four, three]).check()
        tagged([four, three], words=0, tags=-1).check()
        tabs = tmp_path / "c.conll"
        tabs.write_text(three.read_text().replace(" ", "\t"))
        with pytest.raises(RequestError, match=r"tab-separated.*expected CoNLL, space-separated"):
            tagged(three, validation=str(tabs)).check()
        tagged(three, validation=str(tabs), separator="space").check()

    def test_options_for_lines_are_refused_for_rows(self, tmp_path: Path) -> None:
        path = tmp_path / "a.jsonl"
        path.write_text(json.dumps({"words": ["a"], "tags": ["X"]}) + "\n")
        with pytest.raises(RequestError, match=r"data\.separator = 'tab': expected null"):
            tagged(path, separator="tab").check()


class TestComments:
    def test_a_number_sign_can_be_a_word(self, tmp_path: Path) -> None:
        """As in CoNLL-2003, where some 60 words are one."""
        content = "# NN I-NP O\n1 CD I-NP O\n\nby IN I-PP O\n# NN I-NP O\n5 CD I-NP O\n"
        found = sentences(tmp_path / "eng.train", content)
        assert [words for words, _ in found] == [["#", "1"], ["by", "#", "5"]]

    @pytest.mark.parametrize("between", [" ", "\t"])
    def test_comments_are_no_words(self, between: str, tmp_path: Path) -> None:
        lines = ["# sent_id = 1", "# text = a b c", "# newdoc id", "U.N.|NNP|B-ORG", "#1|CD|O", ""]
        lines += ["# sent_id 2", "yes|UH|O"]
        content = "\n".join(lines).replace("|", between)
        found = sentences(tmp_path / "a.conll", content)
        assert found == [(["U.N.", "#1"], ["B-ORG", "O"]), (["yes"], ["O"])]

    def test_what_can_be_both_has_to_be_stated(self, tmp_path: Path) -> None:
        content = "# a comment\ncat N\n\n# N\nruns V\n"
        told = refused(tmp_path / "a.conll", content)
        assert told.startswith(", line 4: expected a value for data.comments")
        assert "such as line 1" in told
        words = [w for w, _ in sentences(tmp_path / "a.conll", content, comments=True)]
        assert words == [["cat"], ["runs"]]
        assert ", line 1 = '# a comment'" in refused(tmp_path / "a.conll", content, comments=False)

    def test_a_stated_comment_stands_before_a_sentence(self, tmp_path: Path) -> None:
        content = "# N\nby P\n# N\n5 N\n"
        found = sentences(tmp_path / "a.conll", content, comments=True)
        assert found == [(["by", "#", "5"], ["P", "N", "N"])]

    def test_a_document_begins_no_sentence(self, tmp_path: Path) -> None:
        content = "-DOCSTART-\nU.N. B-ORG\nsaid O\n-DOCSTART- -X- -X- O\nyes O\n"
        found = sentences(tmp_path / "a.conll", content)
        assert [words for words, _ in found] == [["U.N.", "said"], ["yes"]]


def conllu(*lines: str) -> str:
    """Lines of ten columns: what is not given is `_`."""
    full = []
    for line in lines:
        cells = line.split(" ")
        comment = line.startswith("#") or not line
        full.append(line if comment else "\t".join([*cells, *["_"] * (10 - len(cells))]))
    return "\n".join(full) + "\n"


class TestCoNLLU:
    def test_by_hand(self, tmp_path: Path) -> None:
        text = conllu(
            "# text = vámonos al #mar",
            "1-2 vámonos",
            "1 vamos ir VERB V",
            "2 nos nosotros PRON P",
            "3-4 al",
            "3 a a ADP S",
            "4 el el DET D",
            "5 #mar mar NOUN N",
            "5.1 va ir VERB V",
            "6 _ _ PUNCT F",
            "",
            "1 New\u00a0York x PROPN N",
        )
        text = text.replace("New\u00a0York", "New York")
        found = sentences(tmp_path / "a.conllu", text)
        assert found == [
            (["vamos", "nos", "a", "el", "#mar", "_"],
             ["VERB", "PRON", "ADP", "DET", "NOUN", "PUNCT"]),
            (["New York"], ["PROPN"]),
        ]  # fmt: skip
        xpos = sentences(tmp_path / "a.conllu", text, tags="xpos")
        assert xpos[0][1] == ["V", "P", "S", "D", "N", "F"]

    @pytest.mark.parametrize(
        ("lines", "told"),
        [
            (
                ["1 a a DET", "# late", "2 b b NOUN"],
                ", line 2: expected 10 tab-separated columns (CoNLL-U), not 1",
            ),
            (["1 a a DET", "3 b b NOUN"], ", line 2 = '3': expected the id 2"),
            (["1 a a DET", "1 b b NOUN"], ", line 2 = '1': expected the id 2"),
            (["1 a a DET", "x b b NOUN"], ", line 2 = 'x': expected an id such as 2, 2-3 or 2.1"),
            (["1 a a DET", "2 b b _"], ", line 2 = '_': expected a tag (_ means no tag"),
        ],
    )
    def test_what_is_no_conllu_is_refused(
        self, lines: list[str], told: str, tmp_path: Path
    ) -> None:
        assert refused(tmp_path / "a.conllu", conllu(*lines)).startswith(told)

    def test_other_than_ten_columns(self, tmp_path: Path) -> None:
        for columns in (9, 11):
            line = "\t".join(["1", "a", "a", "DET", *["_"] * (columns - 4)])
            told = refused(tmp_path / "a.conllu", f"{line}\n")
            assert told.startswith(
                f", line 1: expected 10 tab-separated columns (CoNLL-U), not {columns}"
            )

    def test_unspecified_is_a_tag_where_it_is_named_or_means_none(self, tmp_path: Path) -> None:
        text = conllu("1 a a DET", "2 b b _")
        named = sentences(tmp_path / "a.conllu", text, labels=["DET", "_"])
        assert named[0][1] == ["DET", "_"]
        assert sentences(tmp_path / "a.conllu", text, tags="feats")[0][1] == ["_", "_"]


EXAMPLES = {
    "iob1": "I-A I-A B-A O I-B I-A",
    "iob2": "B-A I-A B-A O B-B B-A",
    "iobes": "B-A E-A S-A O S-B S-A",
    "bilou": "B-A L-A U-A O U-B U-A",
}
SPANS = {("A", 0, 1), ("A", 2, 2), ("B", 4, 4), ("A", 5, 5)}
THEIRS = {"iob1": IOB1, "iob2": IOB2, "iobes": IOBES, "bilou": BILOU}


def decided(*tags: str, stated: Any = None) -> str:
    inspection = TagInspection(stated)
    for number, each in enumerate(tags, 1):
        inspection.row(Row(f"a.conll, line {number}", {"tags": each.split()}))
    return inspection.notes(sorted({tag for each in tags for tag in each.split()}))[0]


class TestSchemes:
    @pytest.mark.parametrize("scheme", MARKS)
    def test_is_decided_and_its_spans_are_counted(self, scheme: str) -> None:
        assert decided("O O", EXAMPLES[scheme]).startswith(f"tags mark spans ({scheme}):")
        tags = EXAMPLES[scheme].split()
        assert are_spans(tags)
        assert spans(tags) == SPANS

    @pytest.mark.parametrize("scheme", MARKS)
    def test_agrees_with_seqeval(self, scheme: str) -> None:
        """All that is drawn: where the tags are right in a scheme, seqeval's strict reading has
        the same spans; where ours contradicts, so do the tags that seqeval makes of its spans.
        """
        draw = random.Random(scheme)
        right = 0
        for _ in range(400):
            marks = [*MARKS[scheme], "O"]
            tags = [
                mark if mark == "O" else f"{mark}-{draw.choice('AB')}"
                for mark in draw.choices(marks, k=draw.randint(1, 5))
            ]
            inspection = TagInspection()
            inspection.row(Row("line 1", {"tags": tags}))
            theirs = Entities([tags], THEIRS[scheme]).entities[0]
            told = {(each.tag, each.start, each.end - 1) for each in theirs}
            if scheme not in inspection.against[""]:
                right += 1
                assert told == spans(tags), tags
            else:
                covered = sum(end - start + 1 for _, start, end in told)
                spelt_right = scheme != "iob1" and covered == sum(tag != "O" for tag in tags)
                assert not spelt_right, tags
        assert 30 < right < 390

    def test_plain_labels(self) -> None:
        told = decided("DET NOUN", "X VERB")
        assert told.startswith("each tag is a label of one word, not of a span: DET, NOUN")

    def test_tags_that_break_every_scheme_are_reported(self) -> None:
        """Their spans are those that seqeval counts by default, as the script of CoNLL does."""
        told = decided("B-A I-A O", "O I-A", "B-A B-B")
        assert told.startswith("tags mark spans (read as by the evaluation script of CoNLL-2000")
        assert "iob1 by B-A after the start, a.conll, line 1" in told
        assert "iob2 by I-A after O, a.conll, line 2" in told
        assert spans(["O", "I-A", "B-A"]) == {("A", 1, 1), ("A", 2, 2)}
        assert decided("B-A I-A O", "O I-A", stated="iob2") == (
            "tags mark spans (iob2, as configured; 1 sentences violate this scheme, first: "
            "I-A after O, a.conll, line 2): B-A, I-A, O"
        )

    def test_marks_that_no_scheme_has_together_have_to_be_stated(self) -> None:
        with pytest.raises(RequestError, match="no scheme has all of the prefixes B, E, U"):
            decided("B-A E-A U-A")
        assert "1 sentences violate this scheme" in decided("B-A E-A U-A", stated="iobes")

    def test_tags_of_both_kinds_have_to_be_stated(self) -> None:
        message = r"B-A has a span prefix such as B- or I-, X has none; data\.scheme=plain"
        with pytest.raises(RequestError, match=message):
            decided("B-A I-A X")
        assert decided("B-A I-A X", stated="plain").startswith("each tag is a label of one word")
        with pytest.raises(RequestError, match=r"data\.scheme = 'plain': expected a scheme for sp"):
            decided("B-A I-A O", stated="plain")

    def test_files_agree(self, tmp_path: Path) -> None:
        train, val = tmp_path / "a.conll", tmp_path / "b.conll"
        train.write_text("Rome B-LOC\nand O\nOslo B-LOC\n\n" * 5)
        val.write_text("in O\nRome I-LOC\n")
        data = tagged(train, validation=str(val), labels=["B-LOC", "I-LOC", "O"])
        data.check()
        with pytest.raises(RequestError, match=rf"iob2 in {train} and iob1 in {val}"):
            data.prepare(tmp_path / "cache")


def test_what_was_decided_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.conll"
    path.write_text("# id 1\nRome\tNNP\tB-LOC\nis\tVBZ\tO\n\n" * 20)
    data = tagged(path)
    with caplog.at_level("INFO", "etude.data"):
        data.prepare(tmp_path / "cache")
    notes = [
        "a.conll: CoNLL, 3 tab-separated columns, words in column 0, tags in column 2, "
        "lines starting with # are comments",
        "tags mark spans (iob2): B-LOC, O",
    ]
    assert data.meta.notes == notes
    assert [record.getMessage() for record in caplog.records if record.getMessage() in notes]
