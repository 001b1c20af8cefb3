"""Papers measured here: runs what is asked for, keeps the evidence, and writes `docs/papers.md`.

python benchmarks/papers_page.py --files DIR             # every paper of the cpu tier, or
python benchmarks/papers_page.py --files DIR sort mup    # some of them
python benchmarks/papers_page.py --page                  # the page alone

What is kept, in `docs/papers/<paper>/`, is the report, its figures and `result.json`; the runs with
their checkpoints stay where they are.
"""

from __future__ import annotations

import argparse
import html
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from etude.papers import claims, report
from etude.papers.reproduction import folder_of, reproduce
from etude.records.files import read_json
from etude.records.text_tables import markdown_table

DOCS = Path(__file__).resolve().parents[1] / "docs"

INTRODUCTION = """\
# Papers

Claims of papers, measured with Étude. `make papers` writes this page and `docs/papers/`, which
has, for each paper, a report with all values and tolerances, figures, and the numbers as
`result.json`.

- *Matches the paper*: compared with the published number. Where the paper states a claim in words
  only, the threshold is ours.
- *Matches the protocol*: compared with results that others got with these or similar settings:
  smaller models, fewer steps or other text than in the paper.
- *Negative control*: each comparison also has a case in which the claim must not hold.
- Tolerances are in `conf/paper/`. They were committed before the runs.
- A match with fewer than three seeds is marked. *Not run* means that there is no result yet.

`etude reproduce` lists the papers and your own results; `etude reproduce PAPER` trains what is
missing and compares. Tiers: `cpu` needs minutes on two cores, `gpu` hours on a data-centre GPU,
`weights` released weights from the Hugging Face Hub. The cost is that of all runs of a paper on an
otherwise idle machine; most of these results come from a busy machine, where runs took several
times as long.
"""
COLUMNS = ("paper", "claim", "cost", "matches the paper", "the protocol", "")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("only", nargs="*", metavar="PAPER", help="all of the cpu tier without it")
    parser.add_argument("--root", type=Path, default=Path("experiments"), help="of the runs")
    parser.add_argument("--files", type=Path, default=Path(), help="see etude reproduce --help")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once (1)")
    parser.add_argument("--page", action="store_true", help="the page alone")
    given = parser.parse_args()
    names = given.only or [n for n, paper in claims.all_papers().items() if paper.tier == "cpu"]
    for name in () if given.page else names:
        reproduce(name, given.root, jobs=given.jobs, files=given.files)
        keep(folder_of(name, given.root), DOCS / "papers" / name)
    write_page(DOCS)


def keep(found: Path, kept: Path) -> None:
    """Copies a paper's evidence; the page of HTML has the same figures in it once more."""
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(found, kept, ignore=shutil.ignore_patterns("report.html"))


def write_page(docs: Path) -> None:
    """Writes `papers.md` from the papers' files and the evidence beside it."""
    papers = claims.all_papers()
    lines = [line_of(name, docs / "papers" / name) for name in papers]
    parts = [INTRODUCTION, markdown_table(COLUMNS, lines), *begun(docs, papers)]
    (docs / "papers.md").write_text("\n".join(parts) + "\n")


def begun(docs: Path, papers: Mapping[str, claims.Paper]) -> Iterator[str]:
    """What was found out of papers that have not been run whole."""
    for name, paper in papers.items():
        if paper.notes and not (docs / "papers" / name / "result.json").is_file():
            yield f"\n`{name}`, not run whole: {paper.notes}"


def line_of(name: str, folder: Path) -> list[str]:
    """A paper's line of the table; verdicts are those of today's tolerances."""
    paper = claims.load(name)
    ours, protocol, thumbnail, title = "not run", "", "", paper.title
    path = folder / "result.json"
    if path.is_file():
        found: Any = read_json(path)
        settings = claims.measurement_node(name, paper).canonical()
        verdict, known = report.judge_result(found, str(path), paper, settings)
        ours, protocol = str(verdict), str(known or "")
        title = f"[{paper.title}](papers/{name}/report.md)"
        if figures := sorted((folder / "figures").glob("*.png")):
            source = f"papers/{name}/figures/{figures[0].name}"
            thumbnail = f'<img src="{source}" width="220" alt="{html.escape(paper.title)}">'
    title += f"<br>`{name}`"
    return [title, paper.claim, f"{paper.cost} ({paper.tier})", ours, protocol, thumbnail]


if __name__ == "__main__":
    main()
