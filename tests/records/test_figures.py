import re
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from problems import complex_normal, small_disc, write_prepared

import gleam
from gleam import Fit, figures, widgets
from gleam.datasets.volume import REAL_ANATOMY
from gleam.metrics import psnr


@pytest.fixture
def images():
    target = complex_normal(24, 20)
    return {"Zero-filled": target + 0.5, "GLEAM": target + 0.1}, target


def test_compare_draws_every_method_with_scores_and_one_error_scale(images):
    figure = figures.compare(*images, label="phantom")
    titles = [axis.get_title() for axis in figure.axes]
    assert {"Zero-filled", "GLEAM", "Ground truth"} <= set(titles)
    corners = [t.get_text() for axis in figure.axes for t in axis.texts]
    assert len(corners) == 2 and f"{float(psnr(images[0]['GLEAM'], images[1])):.1f} dB" in corners[1]
    errors = [axis.images[0] for axis in figure.axes if axis.images and axis.images[0].get_cmap().name == "inferno"]
    assert len({e.get_clim() for e in errors}) == 1 and len(errors) >= 2
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_other_figures_draw(images):
    named, target = images
    fit = Fit({}, history=[{"step": 1, "nrmse": 0.3}, {"step": 2, "nrmse": 0.2}], best_step=2, best_nrmse=0.2)
    drawn = [
        figures.panels({**named, "k": figures.kspace_magnitude(target)}, label="phantom"),
        figures.masks({"R = 4": np.eye(8, dtype=bool)}),
        figures.learning_curves({"GLEAM": fit}),
    ]
    for figure in drawn:
        assert figure.png().startswith(b"\x89PNG")


def test_data_are_called_what_they_are():
    kinds = [(True, "3D FSE"), (False, "AXT2"), (False, REAL_ANATOMY)]
    found = [figures.source(SimpleNamespace(is_phantom=phantom, acquisition=kind)) for phantom, kind in kinds]
    assert found == ["numerical phantom, not a patient", "measured data", "real anatomy, simulated coils and noise"]


def test_differences_have_a_line_per_subject_and_an_interval_per_method():
    values = pd.DataFrame({"CS": [-2.0, -3.0, -2.5], "GLEAM, M = 8": [-0.5, -0.2, -0.4]})
    figure = figures.differences(values, "PSNR minus that of end-to-end (dB)")
    (axis,) = figure.axes
    grey = [line for line in axis.lines if line.get_color() == "#bbbbbb"]
    assert [list(line.get_ydata()) for line in grey] == values.to_numpy().tolist()
    means = [container[0].get_ydata()[0] for container in axis.containers]
    assert means == pytest.approx(values.mean().tolist())
    assert [label.get_text() for label in axis.get_xticklabels()] == ["CS", "GLEAM,\nM = 8"]
    assert figure.png().startswith(b"\x89PNG")


def test_curves_show_means_with_bands_on_the_scales_asked_for():
    samples = np.array([[1.0, 2.0, 4.0], [3.0, 4.0, 6.0]])
    figure = figures.curves(
        {"GLEAM": ([1, 2, 3], samples), "CS": ([1, 2, 3], samples[0])},
        xlabel="depth",
        ylabel="PSNR",
        log="y",
        reference=2,
    )
    (axis,) = figure.axes
    np.testing.assert_allclose(axis.lines[0].get_ydata(), [2, 3, 5])
    zero = figures.curves({"CG": ([1, 2], [1e-3, 0])}, xlabel="steps", ylabel="error", log="y").axes[0]
    assert zero.get_ylim()[0] > 1e-5  # converged exactly: no line down to the floor
    assert len(axis.collections) == 1 and (axis.get_xscale(), axis.get_yscale()) == ("linear", "log")
    assert figure.png().startswith(b"\x89PNG")


@pytest.mark.parametrize("n", [1, 2, 5, 9])
def test_pictures_of_any_number_keep_one_width_so_that_their_letters_keep_their_size(n):
    figure = figures.panels({f"image {i}": np.eye(8) for i in range(n)})
    assert figure.get_figwidth() <= 5.4 + 1e-9
    assert figure.axes[0].get_gridspec().nrows == -(-n // 4)


def test_pictures_show_themselves_as_png_and_curves_as_svg_that_is_the_same_each_time():
    picture, curve = figures.panels({"image": np.eye(8)}), figures.traces({"a": [1, 2]}, xlabel="x", ylabel="y")
    assert picture._repr_svg_() is None and picture._repr_png_().startswith(b"\x89PNG")
    assert curve._repr_png_() is None and curve._repr_svg_() == curve._repr_svg_() and "<svg" in curve.svg()


def test_traces_hold_every_point():
    (axis,) = figures.traces({"GLEAM": [1, 3, 2], "End-to-end": [1, 2]}, xlabel="x", ylabel="y").axes
    assert [list(line.get_ydata()) for line in axis.lines] == [[1, 3, 2], [1, 2]] and axis.get_ylim()[0] == 0


def test_stacked_bars_stand_on_each_other_and_say_their_height():
    figure = figures.stacked(
        {"GLEAM": {"forward": 1.0, "backward": 2.0}, "P-GLEAM": {"undivided": 1.5}}, ylabel="seconds"
    )
    (axis,) = figure.axes
    tops = [max(p.get_y() + p.get_height() for p in axis.patches if round(p.get_x() + p.get_width() / 2) == i)
            for i in (0, 1)]  # fmt: skip
    assert tops == [3.0, 1.5] and [t.get_text() for t in axis.texts] == ["3.00", "1.50"]
    assert len({p.get_facecolor() for p in axis.patches}) == 3
    assert figure.png().startswith(b"\x89PNG")


@pytest.mark.parametrize("at_points", [False, True])
def test_predictions_are_drawn_differently_from_measurements_in_the_same_colour(at_points):
    line = [1, 2, 4], [1.0, 1.9, 3.5]
    figure = figures.predictions(
        {"GLEAM": ([1, 2], [1.0, 1.8])}, {"GLEAM": line}, xlabel="D", ylabel="speed-up", at_points=at_points, ideal=line
    )
    ideal, predicted, measured = figure.axes[0].lines
    assert measured.get_color() == predicted.get_color() == figures.COLORS["GLEAM"]
    assert (measured.get_linestyle(), measured.get_marker()) == ("None", "o")
    assert (predicted.get_linestyle(), predicted.get_marker()) == (("--", "o") if at_points else ("-", "None"))
    assert measured.get_markerfacecolor() != predicted.get_markerfacecolor() or not at_points
    assert ideal.get_linestyle() == ":" and figure.axes[0].get_ylim()[0] == 0
    assert figure.png().startswith(b"\x89PNG")


def test_tradeoff_has_every_point_where_it_is_and_its_name_in_the_legend():
    points = {"GLEAM": (2.0, 0.9), "GLEAM, M = 2": (3.0, 1.0), "Checkpointing": (1.0, 2.0)}
    figure = figures.tradeoff(points, xlabel="MB", ylabel="time")
    (axis,), (legend,) = figure.axes, figure.legends
    assert {line.get_label(): (*line.get_xdata(), *line.get_ydata()) for line in axis.lines} == points
    assert [t.get_text() for t in legend.get_texts()] == [*points]
    colors, markers = [line.get_color() for line in axis.lines], {line.get_marker() for line in axis.lines}
    assert colors[0] == colors[1] != colors[2] and len(markers) == len(points)
    assert axis.get_xlim()[0] == axis.get_ylim()[0] == 0


def test_roofline_has_a_slope_a_ceiling_per_format_and_every_point_where_it_is():
    limits = {"bf16_flops_per_second": 8e14, "fp32_flops_per_second": 6.7e13, "copy_bytes_per_second": 4.1e12}
    points = {"GLEAM": (80.0, 4e13), "bf16, captured": (160.0, 4e14)}
    figure = figures.roofline(points, limits, label="Some device")
    (axis,) = figure.axes
    slope, *ceilings = axis.lines[:3]
    np.testing.assert_allclose(slope.get_ydata() / slope.get_xdata(), 4.1e12)
    for line, rate in zip(ceilings, (8e14, 6.7e13), strict=True):
        np.testing.assert_allclose(line.get_ydata(), rate)
        np.testing.assert_allclose(line.get_xdata()[0], rate / 4.1e12)  # begins on the slope
    assert slope.get_ydata()[-1] == pytest.approx(8e14)
    assert {line.get_label(): (*line.get_xdata(), *line.get_ydata()) for line in axis.lines[3:]} == points
    assert {"memory: 4.1 TB/s", "bf16: 800 TFLOP/s", "fp32: 67 TFLOP/s"} == {t.get_text() for t in axis.texts}
    (legend,) = figure.legends
    assert legend.get_title().get_text() == "Some device" and len(legend.get_texts()) == len(points)
    assert (axis.get_xscale(), axis.get_yscale()) == ("log", "log") and figure.png().startswith(b"\x89PNG")


def test_pictures_are_saved_whole(images, tmp_path):
    figures.compare(*images).save(tmp_path / "a" / "figure.png")
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["figure.png"]


def test_slider_needs_no_kernel_and_names_every_frame(images):
    named, _ = images
    slider = widgets.Slider({str(n): figures.panels(named) for n in (4, 8)}, name="Acceleration", alt="A knee.")
    page = slider._repr_html_()
    assert page.count("<img") == 2 and page.count(" hidden>") == 2
    assert 'alt="A knee. Acceleration: 8."' in page and 'type="range"' in page and 'max="1"' in page
    assert not re.search(r"(src|href)=[\"']https?:", page)
    film = widgets.Slider({"1": figures.panels(named)}, name="Frame", alt="A knee.", play=True)._repr_html_()
    assert ">Play</button>" in film and "<button" not in page


def drawn(asked):
    """A function that draws, and notes what it was asked for."""

    def draw(n, cmap):
        asked.append((n, cmap))
        return figures.panels({f"{n}": np.eye(n)}, cmap=cmap)

    return draw


def test_an_explorer_draws_what_its_controls_say():
    asked = []
    explorer = widgets.Explorer(drawn(asked), {"n": [4, 8, 16], "cmap": ["gray", "viridis"]}, alt="A diagonal.")
    first, second, picture = explorer.live().children
    shown = {picture.value}
    first.value = 16
    shown.add(picture.value)
    second.value = "viridis"
    shown.add(picture.value)
    assert asked == [(4, "gray"), (16, "gray"), (16, "viridis")] and len(shown) == 3


def test_an_explorer_on_a_page_is_a_slider_over_its_first_control():
    asked = []
    explorer = widgets.Explorer(drawn(asked), {"n": [4, 8], "cmap": ["gray", "viridis"]}, alt="A diagonal.")
    page = explorer.static()._repr_html_()
    assert asked == [(4, "gray"), (8, "gray")] and page.count("<img") == 2
    with pytest.raises(ValueError, match="at least one value"):
        widgets.Explorer(drawn(asked), {"n": []}, alt="")


@pytest.mark.slow
@pytest.mark.parametrize("is_static", [False, True])
def test_an_explorer_in_a_kernel(is_static, monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.delenv(widgets.STATIC, raising=False)
    if is_static:
        monkeypatch.setenv(widgets.STATIC, "1")
    code = (
        "import numpy as np\nfrom gleam import figures, widgets\n"
        "explorer = widgets.Explorer(lambda n: figures.panels({'x': np.eye(n)}), {'n': [4, 8]}, alt='A diagonal.')\n"
    )
    cells = [code + "explorer", "box = explorer.live()\nold = box.children[1].value\nbox.children[0].value = 8\n"
             "print(old != box.children[1].value)"]  # fmt: skip
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    first, second = (cell.outputs[0] for cell in notebook.cells)
    assert ("application/vnd.jupyter.widget-view+json" in first.data) is not is_static
    assert ("gleam-slider" in first.data.get("text/html", "")) is is_static and second.text == "True\n"


def test_methods_are_compared_on_one_slice_of_a_data_set(tmp_path):
    path = write_prepared(tmp_path / "one.h5")
    data = gleam.datasets.Slices("test", (path,), partial(small_disc, acceleration=3), cache_dir=tmp_path)
    figure = figures.compare_methods({"Zero-filled": gleam.baselines.zero_filled}, data, 1, label="R = 3")
    shown = gleam.baselines.zero_filled(data[1])[0], data[1].target[0]
    corner = next(text.get_text() for axis in figure.axes for text in axis.texts)
    assert f"{float(psnr(*shown)):.1f} dB" in corner
    assert figures.source(data).split(",")[0] in figure.get_supxlabel().replace("\n", " ")


def test_a_saved_picture_or_a_text_is_shown(tmp_path):
    path = tmp_path / "compare.png"
    assert figures.saved(path, "*Nothing.*").data == "*Nothing.*"
    path.write_bytes(b"\x89PNG")
    assert figures.saved(path, "*Nothing.*").data == b"\x89PNG"
