"""The book's Sphinx extension: numbers from records, links from code, and the addresses of buttons."""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import book_claims
import book_code
import book_numbers
import book_records
import gleam_book
import pytest
from docutils import nodes
from docutils.core import publish_doctree
from docutils.parsers.rst import directives, roles
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer
from sphinx import addnodes
from sphinx.util.docutils import docutils_namespace

from gleam import records
from gleam.datasets.volume import REAL_ANATOMY
from gleam.records.claims import CLAIMS
from gleam.records.scoreboard import scoreboard

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def two_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(book_numbers, "records_dir", lambda: tmp_path)
    monkeypatch.setattr(book_numbers, "ARCHIVE", tmp_path / "results")
    for method, psnr, peak, rounds in (("End-to-end", 30.0, 8e6, [1, 2, 4]), ("GLEAM", 29.0, 2e6, [3, 3, 4])):
        scores = [
            {"subject": s, "slice": 0, "psnr": psnr + d, "nrmse": 0.1, "ssim": 0.9} for s, d in (("a", -1), ("b", 1))
        ]
        cost = {"peak_bytes": peak, "seconds_per_step": 0.5, "step_seconds": rounds}
        data = {"is_phantom": True}
        records.save(records.Record("knee", method, scores, data, settings={"n_steps": 7}, cost=cost), tmp_path)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("knee/gleam:psnr:.1f", "29.0"),
        ("knee/End-to-end:psnr:.2f", "30.00"),
        ("knee/gleam:psnr_sd:.1f", "1.0"),
        ("knee/gleam:peak_mb:.0f", "2"),
        ("knee/gleam:settings.n_steps:", "7"),
        ("knee/end-to-end:peak_bytes / knee/gleam:peak_bytes:.1f", "4.0"),
        ("knee/end-to-end:psnr - knee/gleam:psnr:.1f", "1.0"),
        ("knee/gleam:step_seconds / knee/end-to-end:step_seconds:.2f", "1.50"),
        ("knee/checkpointed:psnr:.1f", None),
        ("knee/checkpointed:psnr - knee/gleam:psnr:.1f", None),
    ],
)
def test_a_value_in_prose_comes_from_its_record(two_runs, text, shown):
    assert book_numbers.evaluate(text) == shown


def test_the_papers_own_values_come_from_its_tables():
    look_up = book_numbers.look_up_published
    assert book_numbers.evaluate("I/12/GLEAM:psnr - I/12/End-to-end:psnr:+.2f", look_up) == "+0.06"
    assert book_numbers.evaluate("III/8/CS:ssim:.3f", look_up) == "0.716"
    with pytest.raises(ValueError, match="no row with"):
        book_numbers.evaluate("I/99/GLEAM:psnr:.1f", look_up)


@pytest.mark.parametrize("text", ["knee/gleam:sharpness:.1f", "knee/gleam", "gleam:psnr:.1f", "knee/gleam:psnr:.1x"])
def test_what_cannot_be_understood_is_an_error(two_runs, text):
    with pytest.raises(ValueError):
        book_numbers.evaluate(text)


def archive(folder, method="GLEAM", experiment="knee", psnr=40.0, **changes):
    scores = [{"subject": "a", "slice": 0, "psnr": psnr, "nrmse": 0.1, "ssim": 0.9}]
    cost = {"peak_bytes": 2e9, "seconds_per_step": 0.25}
    record = records.Record(
        experiment, method, scores, {"is_phantom": True}, settings={"n_steps": 50_000}, cost=cost, profile="paper",
        environment={"device": "NVIDIA H200", "date": "2026-12-01"}, n_steps_done=12_000,
    )  # fmt: skip
    records.save(replace(record, **changes), folder / "results" / "nvidia-h200")


def test_an_archived_value_is_that_of_the_full_scale_run(two_runs, tmp_path):
    look_up = book_numbers.look_up_archived
    assert book_numbers.evaluate("knee/gleam:psnr:.1f", look_up) is None
    archive(tmp_path)
    assert book_numbers.evaluate("knee/gleam:psnr:.1f", look_up) == "40.0"
    assert book_numbers.evaluate("knee/gleam:peak_gb:.0f", look_up) == "2"
    assert book_numbers.evaluate("knee/gleam:psnr - knee/end-to-end:psnr:.1f", look_up) is None
    with pytest.raises(ValueError, match="no value 'sharpness'"):
        book_numbers.evaluate("knee/gleam:sharpness:.1f", look_up)
    archive(tmp_path, scores=[])
    assert book_numbers.evaluate("knee/gleam:psnr:.1f", look_up) is None, "an unfinished run has no scores yet"


def test_the_scoreboard_shows_every_claim_with_its_cases(tmp_path):
    board = scoreboard(tmp_path, tmp_path, book_numbers.PUBLISHED)
    whole, short = book_claims._whole(board), book_claims._short(board)
    texts = [row[0] for row in cells(whole)]
    assert sum(text.startswith(claim.text) for claim in CLAIMS for text in texts) >= len(CLAIMS)
    assert len(cells(short)) == 1 + len(CLAIMS) and len(texts) == 1 + sum(1 + len(claim.cases) for claim in CLAIMS)
    targets = {link["reftarget"].rpartition("/")[2] for link in whole.findall(addnodes.pending_xref)}
    assert targets == {claim.chapter for claim in CLAIMS}
    assert all((ROOT / "notebooks" / f"{target}.ipynb").is_file() for target in targets)


@pytest.fixture
def parse():
    """A page in reStructuredText with the roles and the directive of the book, as a document tree."""

    def parsed(text):
        with docutils_namespace():
            roles.register_local_role("archived", book_records.RecordRole(book_numbers.look_up_archived, "not run yet"))
            directives.register_directive("record-table", Table)
            return publish_doctree(text, settings_overrides={"halt_level": 2, "report_level": 2})

    class Table(book_records.RecordTable):
        """Without Sphinx's environment."""

        def set_source_info(self, node):
            pass

    return parsed


def cells(tree):
    return [[entry.astext() for entry in row.findall(nodes.entry)] for row in tree.findall(nodes.row)]


TABLE = """
.. record-table:: knee
   :methods: GLEAM, End-to-end
   :columns: PSNR (dB), Memory
   :over: slices
   :paper: table=I, acceleration=12
   :archived:
   :caption: Knees.
"""


def test_a_table_has_three_blocks(two_runs, tmp_path, parse):
    archive(tmp_path)
    tree = parse(TABLE)
    assert cells(tree) == [
        ["Method", "PSNR (dB)", "Memory"],
        ["Paper"], ["GLEAM", "40.09 (0.34)", "2 GB"], ["End-to-end", "40.03 (0.33)", "11.1 GB"],
        ["Full scale, archived"], ["GLEAM", "40.00 (0.00)", "2.0 GB"],
        ["This build"], ["GLEAM", "29.00 (1.00)", "2.0 MB"], ["End-to-end", "30.00 (1.00)", "8.0 MB"],
    ]  # fmt: skip
    (caption,) = (title.astext() for title in tree.findall(nodes.title))
    assert caption.startswith("Knees. Test data: phantoms.") and "12,000 of 50,000 steps" in caption
    assert [entry["morecols"] for entry in tree.findall(nodes.entry) if "morecols" in entry] == [2, 2, 2]


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"is_phantom": True}, "Test data: phantoms."),
        ({"is_phantom": False}, "Test data: scans."),
        ({"is_phantom": False, "test": {"acquisition": REAL_ANATOMY}}, f"Test data: {REAL_ANATOMY}."),
        ({}, ""),
    ],
)
def test_a_caption_says_what_the_data_were(data, sentence):
    assert book_records._data_sentence({"GLEAM": records.Record("knee", "GLEAM", [], data)}) == sentence


def test_a_table_without_any_run_says_so(two_runs, parse):
    rows = cells(parse(TABLE.replace("record-table:: knee", "record-table:: heart")))
    assert [row[0] for row in rows[4:]] == [
        "Full scale, archived",
        "none yet: see “make records”",
        "This build",
        "not run in this build",
    ]


def test_a_number_of_a_run_that_is_not_archived_says_so(two_runs, parse):
    assert "Gain: not run yet dB" in parse("Gain: :archived:`knee/gleam:psnr:.1f` dB").astext()


@pytest.mark.parametrize("slash", ["/", "%2F"])
def test_buttons_of_a_chapter_open_the_clean_notebook(slash):
    chapter = slash.join(["book", "chapters", "01_problem.ipynb"])
    buttons = [{"buttons": [{"url": f"example/edit/main/{chapter}"}, {"url": "../_sources/chapters/01_problem.ipynb"}]}]
    gleam_book.point_buttons_to_notebooks(None, "chapters/01_problem", "", {"header_buttons": buttons}, None)
    edit, download = buttons[0]["buttons"]
    assert edit["url"] == f"example/edit/main/notebooks{slash}01_problem.ipynb"
    assert download["url"] == "../_sources/chapters/01_problem.ipynb"


CODE = """
import gleam
from gleam import masks
from gleam.physics import Batch as Measured
from gleam.metrics import psnr, ssim
network = gleam.fit(network, train, gleam.Greedy(8), mask=masks.bank)
batch = Measured.from_slice(k, psnr=psnr(x, y)).fit
ssim = gleam.nothing
print(ssim, other.masks.bank, numpy.masks)
"""


@pytest.fixture
def code_links():
    """A function of Python code on a page to its linked names, as (text, address)."""
    documented = [
        "gleam.fit",
        "gleam.Greedy",
        "gleam.masks.bank",
        "gleam.physics.Batch",
        "gleam.physics.Batch.from_slice",
    ]
    documented += ["gleam.metrics.psnr", "gleam.metrics.ssim"]
    entries = {name: SimpleNamespace(docname="api/x", node_id=name, aliased=False) for name in documented}
    env = SimpleNamespace(get_domain=lambda _: SimpleNamespace(objects=entries))
    app = SimpleNamespace(env=env, builder=SimpleNamespace(get_relative_uri=lambda _, to: f"../{to}.html"))

    def linked(code):
        shown = highlight(code, PythonLexer(), HtmlFormatter(wrapcode=False))
        context = {"body": f'<div class="highlight-ipython3 notranslate">{shown}</div>'}
        book_code.link_code(app, "chapters/x", "", context, None)
        found = re.findall(r'<a class="gleam-code" href="([^"]+)"[^>]*>(.*?)</a>', context["body"])
        assert re.sub("<[^>]+>", "", context["body"]) == re.sub("<[^>]+>", "", shown), "copied code stays the same"
        return [(re.sub("<[^>]+>", "", text), address) for address, text in found]

    linked.app = app
    return linked


def test_names_in_code_lead_to_the_reference(code_links):
    found = dict(code_links(CODE))
    assert found == {
        "psnr": "../api/x.html#gleam.metrics.psnr",
        "Measured": "../api/x.html#gleam.physics.Batch",
        "gleam.fit": "../api/x.html#gleam.fit",
        "gleam.Greedy": "../api/x.html#gleam.Greedy",
        "masks.bank": "../api/x.html#gleam.masks.bank",
        "Measured.from_slice": "../api/x.html#gleam.physics.Batch.from_slice",
    }


def test_a_name_that_code_assigns_or_that_has_another_meaning_is_no_link(code_links):
    assert code_links("fit = 1\nfit(gleam_fit, other.gleam.fit)") == []
    texts = [text for text, _ in code_links(CODE)]
    assert "ssim" not in texts and texts.count("psnr") == 2  # imported and called, but not the argument's name
    assert code_links("gleam.fit(an excerpt ...)") == [("gleam.fit", "../api/x.html#gleam.fit")]


def test_names_within_sentences_lead_to_the_reference(code_links):
    app = code_links.app
    start = '<code class="docutils literal notranslate"><span class="pre">'
    for text, linked in (("gleam.fit(network)", True), ("gleam.nothing", False), ("my.gleam.fit", False)):
        context = {"body": f"{start}{text}</span></code>"}
        book_code.link_code(app, "chapters/x", "", context, None)
        assert ('href="../api/x.html#gleam.fit"' in context["body"]) == linked
        assert re.sub("<[^>]+>", "", context["body"]) == text


def test_a_name_leads_to_where_it_is_documented_under_another(code_links):
    assert code_links("gleam.strategies.Greedy(2)") == [("gleam.strategies.Greedy", "../api/x.html#gleam.Greedy")]
