"""The book's Sphinx extension: numbers from records, and the addresses of buttons."""

import book_records
import gleam_book
import pytest

from gleam import records


@pytest.fixture
def two_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(book_records, "records_dir", lambda: tmp_path)
    for method, psnr, peak in (("End-to-end", 30.0, 8e6), ("GLEAM", 29.0, 2e6)):
        scores = [
            {"subject": s, "slice": 0, "psnr": psnr + d, "nrmse": 0.1, "ssim": 0.9} for s, d in (("a", -1), ("b", 1))
        ]
        cost = {"peak_bytes": peak, "seconds_per_step": 0.5}
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
        ("knee/checkpointed:psnr:.1f", None),
        ("knee/checkpointed:psnr - knee/gleam:psnr:.1f", None),
    ],
)
def test_a_value_in_prose_comes_from_its_record(two_runs, text, shown):
    assert book_records.evaluate(text) == shown


def test_the_papers_own_values_come_from_its_tables():
    look_up = book_records.look_up_published
    assert book_records.evaluate("I/12/GLEAM:psnr - I/12/End-to-end:psnr:+.2f", look_up) == "+0.06"
    assert book_records.evaluate("III/8/CS:ssim:.3f", look_up) == "0.716"
    with pytest.raises(ValueError, match="no row with"):
        book_records.evaluate("I/99/GLEAM:psnr:.1f", look_up)


@pytest.mark.parametrize("text", ["knee/gleam:sharpness:.1f", "knee/gleam", "gleam:psnr:.1f", "knee/gleam:psnr:.1x"])
def test_what_cannot_be_understood_is_an_error(two_runs, text):
    with pytest.raises(ValueError):
        book_records.evaluate(text)


@pytest.mark.parametrize("slash", ["/", "%2F"])
def test_buttons_of_a_chapter_open_the_clean_notebook(slash):
    chapter = slash.join(["book", "chapters", "01_problem.ipynb"])
    buttons = [{"buttons": [{"url": f"example/edit/main/{chapter}"}, {"url": "../_sources/chapters/01_problem.ipynb"}]}]
    gleam_book.point_buttons_to_notebooks(None, "chapters/01_problem", "", {"header_buttons": buttons}, None)
    edit, download = buttons[0]["buttons"]
    assert edit["url"] == f"example/edit/main/notebooks{slash}01_problem.ipynb"
    assert download["url"] == "../_sources/chapters/01_problem.ipynb"
