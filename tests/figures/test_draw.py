"""Every registered figure, as files and as pages that can be read."""

import functools
import subprocess
import sys

import matplotlib.text
import numpy
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import AxesImage
from synthetic import FAILED, METHODS, make_tables, write_tables

from attrreg.figures import FIGURES, FORMATS, MethodLabel, draw
from attrreg.figures.style import settings

MORE = [
    MethodLabel("reldrop-block/scrambled", "RelDrop block, scrambled map", False, True),
    MethodLabel("reldrop-pixel", "RelDrop pixel", False, False),
    MethodLabel("reldrop-patch", "RelDrop patch", False, False),
    MethodLabel("sgt-shared", "Saliency Guided Training, shared pass", False, False),
    MethodLabel("sgt/swapped", "Saliency Guided Training, swapped map", False, True),
    MethodLabel("mine", "Gradient × input, least relevant block, consistency " * 3, False, False),
]
EVERYTHING = [(m.name, n, seed) for m in METHODS for n in (50, 200) for seed in (0, 1, 2)]
PAIRS = (("digits", "resnet-small"), ("cifar10", "resnet18"))
EXPERIMENTS = {
    "the demo": {},
    "nothing failed": {"failed": ()},
    "everything failed": {"failed": EVERYTHING},
    "one method": {"methods": METHODS[:1]},
    "twelve methods": {"methods": METHODS + MORE, "sizes": (20, 1000), "pairs": PAIRS},
    "one seed": {"seeds": (0,)},
    "one train size": {"sizes": (50,)},
    "many train sizes": {"methods": METHODS[:2], "sizes": (10, 20, 50, 100, 200, 500, 1000, 2000)},
    "close train sizes": {"sizes": (50, 52, 54, 1000), "methods": METHODS[:3]},
}


@functools.cache
def tables_of(experiment):
    """Return the tables of an experiment, made once for all figures."""
    return make_tables(**EXPERIMENTS[experiment])


def page_of(name, tables, methods=METHODS):
    """Return the figure with a renderer that knows the extent of everything."""
    drawing = FIGURES[name]
    loaded = [tables[table] for table in drawing.tables]
    figure = drawing.function(*loaded, methods=methods, title=drawing.title)
    canvas = FigureCanvasAgg(figure)
    with settings():
        figure.draw_without_rendering()  # everything gets its place, only no pixel its colour
    return figure, canvas.get_renderer()


def words_of(figure):
    """Return every text that is shown; ticks beyond the limits of their axis are not."""
    beyond = set()
    for axis in [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]:
        low, high = sorted(axis.get_view_interval())
        ticks = [tick for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high]
        beyond |= {tick.label1 for tick in ticks}
    found = [text for text in figure.findobj(matplotlib.text.Text) if text.get_text().strip()]
    return [text for text in found if text.get_visible() and text not in beyond]


def extents_of(text, renderer):
    """Return left, bottom, right, top in pixels; a leading empty line does not count."""
    left, bottom, right, top = text.get_window_extent(renderer).extents
    lines = text.get_text().split("\n")
    return left, bottom, right, bottom + (top - bottom) / (1 + (lines[0] == ""))


@pytest.mark.parametrize("name", FIGURES)
def test_files_are_written_under_the_name_and_two_draws_give_equal_bytes(name, folder, tmp_path):
    paths = draw(name, folder, tmp_path / "new" / "figures", METHODS)
    assert [path.name for path in paths] == [f"{name}.svg", f"{name}.png", f"{name}.pdf"]
    assert set(paths[0].parent.iterdir()) == set(paths)
    starts = [path.read_bytes()[:8] for path in paths]
    assert starts[0].startswith(b"<?xml")
    assert starts[1] == b"\x89PNG\r\n\x1a\n"
    assert starts[2].startswith(b"%PDF")
    again = draw(name, folder, tmp_path / "again", METHODS)
    for one, other in zip(paths, again, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name


def test_another_process_and_configuration_give_equal_bytes(folder, tmp_path, monkeypatch):
    here = draw("accuracy-by-train-size", folder, tmp_path / "here", METHODS[:2])
    (tmp_path / "matplotlibrc").write_text("font.size: 20\nlines.linewidth: 9\nsvg.fonttype: path")
    monkeypatch.setenv("MATPLOTLIBRC", str(tmp_path / "matplotlibrc"))
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    program = (
        "import sys; from pathlib import Path; from attrreg.figures import MethodLabel, draw\n"
        "methods = [MethodLabel('baseline', 'Baseline', False, False),"
        " MethodLabel('random-erasing', 'Random erasing', False, False)]\n"
        "draw('accuracy-by-train-size', Path(sys.argv[1]), Path(sys.argv[2]), methods)\n"
        "assert 'torch' not in sys.modules, 'figures import torch'\n"
        "assert 'matplotlib.pyplot' not in sys.modules, 'figures import pyplot'\n"
    )
    command = [sys.executable, "-c", program, str(folder), str(tmp_path / "there")]
    subprocess.run(command, check=True, timeout=120)
    for path in here:
        assert path.read_bytes() == (tmp_path / "there" / path.name).read_bytes(), path.name


@pytest.mark.parametrize("name", FIGURES)
def test_svg_holds_text_with_failures_and_reconstruction(name, folder, tmp_path):
    svg = draw(name, folder, tmp_path, METHODS, title="A title & <more>", formats=["svg"])[0]
    text = svg.read_text(encoding="utf-8")
    assert "A title &amp; &lt;more&gt;" in text
    assert "failed" in text
    assert "× Saliency Guided Training failed" in text
    assert "seeds 0, 1, 2" in text
    assert "NonFiniteLossError" in text
    assert "(reconstruction)" in text
    assert "<dc:date>" not in text


@pytest.mark.parametrize("experiment", EXPERIMENTS)
@pytest.mark.parametrize("name", FIGURES)
def test_page_can_be_read(name, experiment):
    figure, renderer = page_of(
        name, tables_of(experiment), EXPERIMENTS[experiment].get("methods", METHODS)
    )
    words = words_of(figure)
    assert min(text.get_fontsize() for text in words) >= 8
    boxes = numpy.array([extents_of(text, renderer) for text in words])
    outside = (boxes[:, :2] < -1) | (boxes[:, 2:] > numpy.array(figure.bbox.max) + 1)
    assert not [words[n].get_text() for n in numpy.flatnonzero(outside.any(1))], "off the page"
    low, high = boxes[:, None, :2] + 1.5, boxes[:, None, 2:] - 1.5
    meet = ((low < high.swapaxes(0, 1)) & (low.swapaxes(0, 1) < high)).all(2)
    pairs = numpy.argwhere(numpy.triu(meet, 1))
    assert not [(words[a].get_text(), words[b].get_text()) for a, b in pairs], "texts overlap"
    for legend in figure.legends:
        area = legend.get_window_extent(renderer)
        for axes in figure.axes:
            assert not area.overlaps(axes.get_tightbbox(renderer)), "the legend lies over data"


@pytest.mark.parametrize("name", FIGURES)
def test_only_finite_things_are_drawn(name, tables):
    broken = {key: value.copy() for key, value in tables.items()}
    broken["metrics.csv"].loc[::7, "value"] = numpy.nan
    broken["curves.csv"].loc[::7, "accuracy"] = numpy.nan
    for name_of_curves in ("faithfulness.csv", "accuracy_drop.csv", "cross.csv"):
        broken[name_of_curves].loc[::7, "accuracy"] = numpy.nan
    broken["tests.csv"].loc[::5, ["difference", "low", "high", "p", "p_corrected"]] = numpy.nan
    broken["tests.csv"].loc[1::5, ["low", "high"]] = [-numpy.inf, numpy.inf]
    arrays = broken["gallery.safetensors"]
    relevance = arrays["digits|resnet-small/baseline/relevance"].copy()
    relevance[0, :2] = numpy.nan
    relevance[1] = 0
    arrays["digits|resnet-small/baseline/relevance"] = relevance
    figure, _ = page_of(name, broken)
    for axes in figure.axes:
        assert numpy.isfinite([*axes.get_xlim(), *axes.get_ylim()]).all()
        for line in axes.lines:
            assert numpy.isfinite(numpy.asarray(line.get_xydata(), dtype=float)).all()
        for collection in axes.collections:
            assert numpy.isfinite(numpy.asarray(collection.get_offsets(), dtype=float)).all()
            for path in collection.get_paths():
                assert numpy.isfinite(path.vertices).all()
        for image in axes.findobj(AxesImage):
            assert numpy.isfinite(numpy.ma.filled(image.get_array(), 0)).all()


@pytest.mark.parametrize("name", FIGURES)
def test_empty_tables_say_so(name, tables):
    empty = {key: table.iloc[:0] if key.endswith(".csv") else {} for key, table in tables.items()}
    figure, _ = page_of(name, empty)
    assert any(text.get_text().startswith("no ") for text in words_of(figure))


def test_unknown_names_are_refused(folder, tmp_path):
    with pytest.raises(ValueError, match=r"unknown figure 'galery'.*did you mean 'gallery'"):
        draw("galery", folder, tmp_path, METHODS)
    with pytest.raises(ValueError, match=r"unknown format 'jpg': known are svg, png, pdf"):
        draw("gallery", folder, tmp_path, METHODS, formats=["jpg"])
    with pytest.raises(ValueError, match="methods is empty"):
        draw("gallery", folder, tmp_path, [])
    with pytest.raises(ValueError, match="baseline more than once"):
        draw("gallery", folder, tmp_path, [METHODS[0], METHODS[0]])
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file(folder, tmp_path, monkeypatch):
    path = draw("accuracy-by-train-size", folder, tmp_path, METHODS, formats=["svg"])[0]
    before = path.read_bytes()

    def fail(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    with pytest.raises(OSError, match="no space left"):
        draw("accuracy-by-train-size", folder, tmp_path, METHODS, title="new", formats=["svg"])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_registry_is_complete():
    for name, drawing in FIGURES.items():
        assert name == name.lower()
        assert "failures.csv" in drawing.tables
        assert drawing.title
        assert "\n" not in drawing.description
    assert set(FORMATS) == {"svg", "png", "pdf"}


def test_tables_survive_the_way_through_files(tmp_path):
    tables = make_tables(failed=FAILED[:1])
    folder = write_tables(tables, tmp_path / "tables")
    path = draw("occlusion", folder, tmp_path, METHODS, formats=["svg"])[0]
    assert "seed 0" in path.read_text(encoding="utf-8")
