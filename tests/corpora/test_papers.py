"""The papers that the course cites: numbers well formed, nothing twice, and every citation to be found."""

import re

import pytest

from lessonlib.corpora import DATA
from lessonlib.corpora.published import PAPER_TABLES, Paper, architectures, gpus, papers
from lessonlib.course.claims import claims

PAPERS = papers()
CITED = re.compile(r"([A-Z][\w-]+) (et al\.|and [A-Z][\w-]+) (\d{4})\b")
LESSONS = [f"{number:02}" for number in range(1, 11)]


def surnames(paper: Paper) -> list[str]:
    return re.split(r", | and | et al\.$", paper.authors)


def cited_as(paper: Paper, first: str, others: str, year: str) -> bool:
    """Whether a citation like ("Frankle", "and Carbin", "2019") means this paper, by either of its years."""
    names = surnames(paper)
    alike = len(names) > 2 if others == "et al." else names == [first, others.removeprefix("and ")]
    return names[0] == first and alike and year in {str(paper.year), *re.findall(r"\d{4}", paper.venue)}


def test_there_are_at_least_sixty():
    assert len(PAPERS) >= 60


@pytest.mark.parametrize("field", ["key", "title", "in_one_line"])
def test_no_paper_stands_twice(field):
    assert len({getattr(paper, field) for paper in PAPERS}) == len(PAPERS)


def test_no_arxiv_number_stands_twice():
    numbers = [paper.arxiv for paper in PAPERS if paper.arxiv]
    assert len(set(numbers)) == len(numbers) >= 60


@pytest.mark.parametrize("paper", PAPERS, ids=lambda paper: paper.key)
def test_an_arxiv_number_is_well_formed_and_gives_year_and_month(paper):
    if paper.arxiv:
        # Four digits after the point until December 2014, five since (arXiv identifier scheme).
        assert re.fullmatch(r"\d{4}\.\d{5}" if paper.year >= 2015 else r"\d{4}\.\d{4}", paper.arxiv)
        assert paper.arxiv[:4] == f"{paper.year - 2000:02}{paper.month:02}"
    assert 1 <= paper.month <= 12 and 2014 <= paper.year <= 2026


@pytest.mark.parametrize("paper", PAPERS, ids=lambda paper: paper.key)
def test_a_row_is_whole(paper):
    assert re.fullmatch(r"[a-z]+\d{4}[a-z]?", paper.key)
    assert paper.lesson and set(paper.lesson) <= set(LESSONS) and list(paper.lesson) == sorted(paper.lesson)
    assert paper.title and paper.authors and paper.venue
    assert paper.in_one_line.endswith(".") and len(paper.in_one_line) <= 140


def test_the_oldest_comes_first():
    dates = [(paper.year, paper.month) for paper in PAPERS]
    assert dates == sorted(dates)


@pytest.mark.parametrize("lesson", LESSONS)
def test_every_notebook_has_papers(lesson):
    assert sum(lesson in paper.lesson for paper in PAPERS) >= 6


@pytest.mark.parametrize(
    "key, arxiv",
    [  # read on the papers' own first pages or in claims.csv, kept apart from the file
        ("brown2020", "2005.14165"),
        ("wei2022", "2201.11903"),
        ("wang2022", "2203.11171"),
        ("yao2023", "2305.10601"),
        ("yao2022", "2210.03629"),
        ("lester2021", "2104.08691"),
        ("hu2021", "2106.09685"),
        ("rajbhandari2020", "1910.02054"),
        ("frankle2019b", "1903.01611"),
        ("hayou2024", "2402.12354"),
        ("zhang2023", "2303.10512"),
        ("sheng2023", "2311.03285"),
        ("akyurek2022", "2211.15661"),
        ("liu2024", "2402.09353"),
    ],
)
def test_numbers_read_elsewhere(key, arxiv):
    assert {paper.key: paper.arxiv for paper in PAPERS}[key] == arxiv


@pytest.mark.parametrize("id", claims())
def test_every_paper_that_a_claim_cites_is_here(id):
    row = claims()[id]
    for citation in CITED.findall(row.source):
        found = [paper for paper in PAPERS if cited_as(paper, *citation)]
        assert any(row.notebook in paper.lesson for paper in found), " ".join(citation)
    for arxiv in re.findall(r"\d{4}\.\d{4,5}", row.source):
        assert arxiv in {paper.arxiv for paper in PAPERS}


def test_citations_are_recognized():
    assert len({cite for claim in claims().values() for cite in CITED.findall(claim.source)}) >= 25
    assert CITED.findall("Frankle and Carbin 2019; Frankle et al. 2019") == [
        ("Frankle", "and Carbin", "2019"),
        ("Frankle", "et al.", "2019"),
    ]
    hits = [paper.key for paper in PAPERS if cited_as(paper, "Frankle", "et al.", "2019")]
    assert hits == ["frankle2019b", "frankle2020"]


def test_every_table_is_of_a_paper_that_is_here():
    keys = {paper.key for paper in PAPERS}
    assert {path.stem.partition("_")[0] for path in PAPER_TABLES.glob("*.csv")} <= keys


def test_the_datasheet_counts_what_is_here():
    sheet = (DATA / "references.md").read_text("utf8")
    tables = len(list(PAPER_TABLES.glob("*.csv")))
    assert f"| {len(architectures())} published models:" in sheet and f"| {len(gpus())} GPUs:" in sheet
    assert f"| {len(PAPERS)} papers " in sheet and f"| {tables} tables," in sheet
