"""The sheet of explanations: what is written under the maps, and pages that can be read."""

import subprocess
import sys
from dataclasses import replace

import matplotlib.text
import numpy
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import AxesImage

from attrreg.figures.gallery import RELEVANCE_COLOURS
from attrreg.figures.sheet import Column, Sheet, check_output, draw_sheet, save_sheet, table
from attrreg.figures.style import settings

RULES = (
    *("epsilon-plus-flat", "gradient-x-input", "zennit:EpsilonAlpha2Beta1Flat", "smoothgrad"),
    *("captum:IntegratedGradients", "attention-aware", "integrated-gradients", "alpha2-beta1"),
)
LEDGERS = ("epsilon-plus-flat", "attention-aware", "alpha2-beta1")
REASON = "torch.Tensor.fold of layer4.0.attention has no relevance rule; " + "supported are " * 40


def make_sheet(n, rules, channels=3, size=6, labelled=True, magnitude=1.0, refused=()):
    """Return a sheet of random numbers."""
    random = numpy.random.default_rng(0)
    columns = tuple(
        Column(rule, reason=REASON)
        if rule in refused
        else Column(
            rule,
            maps=(magnitude * random.normal(size=(n, size, size))).astype("float32"),
            absorbed=magnitude * random.normal(size=n) if rule in LEDGERS else None,
            is_share=rule != "smoothgrad",
        )
        for rule in rules
    )
    names = (
        "kitten.png",
        "an_album-of-long-names_IMG_20240101_123456(copy of a copy).jpeg",
        "a$b$",
    )
    classes = random.integers(0, 1000, n)
    return Sheet(
        title="resnet18, untrained (random weights)",
        names=tuple(f"validation {k}" if labelled else names[k % 3] for k in range(n)),
        inputs=random.random((n, channels, size, size)),
        labels=classes if labelled else None,
        predictions=classes + numpy.arange(n) % 2,
        confidences=random.random(n),
        explained=classes,
        outputs=magnitude * random.normal(size=n),
        columns=columns,
    )


SHEETS = {
    "one by one": make_sheet(1, RULES[:1]),
    "three by four": make_sheet(3, RULES[:4], channels=1),
    "eight by nine": make_sheet(9, RULES, refused=RULES[5:6]),
    "own images and large numbers": make_sheet(3, RULES, labelled=False, magnitude=-1.2e-7),
    "nothing supported": make_sheet(2, RULES, refused=RULES),
}


def words(artist):
    return [each.get_text() for each in artist.findobj(matplotlib.text.Text) if each.get_text()]


def maps_of(figure):
    """Return the drawn maps; inputs have colours of their own, the scale is one row."""
    images = [image.get_array() for image in figure.findobj(AxesImage)]
    return [image for image in images if image.ndim == 2 and len(image) > 1]


def small(**changes):
    """Return a sheet whose numbers can be checked by hand: sums 3 and −1, outputs 4 and 2."""
    maps = numpy.array([[[4, 0], [0, -1]], [[-0.5, 0], [0, -0.5]]], dtype="float32")
    sheet = make_sheet(2, ["lrp-0"], size=2)
    column = Column("lrp-0", maps=maps, absorbed=numpy.array([1.0, 3.0]))
    return replace(sheet, outputs=numpy.array([4.0, 2.0]), columns=(column,), **changes)


def test_sum_output_and_share_stand_under_the_map():
    sheet = small()
    said = words(draw_sheet(sheet))
    assert [word for word in said if word.startswith(("Σ", "biases"))] == [
        "Σ 3 of 4",
        "biases 25 %",
        "Σ −1 of 2",
        "biases 150 %",
    ]
    first, *lines = table(sheet).splitlines()
    assert first.split() == [
        *("input", "label", "predicted", "explained", "output", "rule", "sum", "sum/output"),
        "biases",
    ]
    assert lines[0].split()[-7:] == ["4", "lrp-0", "3", "75.0", "%", "25.0", "%"]
    assert lines[1].split()[-7:] == ["2", "lrp-0", "-1", "-50.0", "%", "150.0", "%"]


def test_a_rule_without_a_ledger_has_a_dash_and_a_slope_no_share():
    column = replace(small().columns[0], absorbed=None)
    product = replace(small(), columns=(column,))
    assert "biases – (Σ 75 %)" in words(draw_sheet(product))
    assert table(product).splitlines()[1].split()[-4:] == ["3", "75.0", "%", "–"]
    slope = replace(small(), columns=(replace(column, is_share=False),))
    said = words(draw_sheet(slope))
    assert "Σ 3" in said
    assert "biases –" in said
    assert "is a slope" in " ".join(" ".join(said).split())
    assert table(slope).splitlines()[1].split()[-3:] == ["3", "–", "–"]


def test_an_output_of_zero_has_no_shares():
    sheet = small()
    zero = replace(sheet, outputs=numpy.array([0.0, numpy.nan]))
    assert [line.split()[-2:] for line in table(zero).splitlines()[1:]] == [["–", "–"]] * 2
    assert "Σ −1 of not finite" in words(draw_sheet(zero))


def test_every_map_is_scaled_by_its_own_largest_magnitude():
    figure = draw_sheet(small())
    first, second = maps_of(figure)
    assert first.tolist() == [[1, 0], [0, -0.25]]
    assert second.tolist() == [[-1, 0], [0, -1]]
    for image in figure.findobj(AxesImage):
        if image.get_array().ndim == 2:
            assert (image.norm.vmin, image.norm.vmax) == (-1, 1)
            assert image.cmap == RELEVANCE_COLOURS


def test_label_and_prediction_stand_beside_the_input():
    said = words(draw_sheet(small(labels=numpy.array([7, 8]), predictions=numpy.array([7, 3]))))
    for expected in ("label 7", "predicted 7", "label 8", "predicted 3 ✗"):
        assert expected in said
    assert not [word for word in words(draw_sheet(small(labels=None))) if "label" in word]


def test_what_is_not_supported_says_so_and_the_others_are_drawn():
    sheet = make_sheet(2, RULES[:3], refused=RULES[:2])
    figure = draw_sheet(sheet)
    said = words(figure)
    assert said.count("not\nsupported") == 4
    assert len(maps_of(figure)) == 2
    [note] = [word for word in said if word.startswith("not supported by")]
    assert " ".join(note.split()).startswith(
        "not supported by epsilon-plus-flat, gradient-x-input: torch.Tensor.fold of layer4"
    )


def test_only_finite_things_are_drawn():
    sheet = make_sheet(2, RULES[:2])
    maps = sheet.columns[0].maps.copy()
    maps[0, 0, 0], maps[1] = numpy.inf, 0
    broken = replace(sheet, columns=(replace(sheet.columns[0], maps=maps), sheet.columns[1]))
    figure = draw_sheet(broken)
    assert any("Σ not finite" in word for word in words(figure))
    assert any("Magenta: not finite." in " ".join(word.split()) for word in words(figure))
    assert not any("Magenta" in word for word in words(draw_sheet(sheet)))
    for image in maps_of(figure):
        assert numpy.isfinite(numpy.ma.filled(image, 0)).all()


@pytest.mark.parametrize("name", SHEETS)
def test_page_can_be_read(name):
    sheet = SHEETS[name]
    figure = draw_sheet(sheet)
    canvas = FigureCanvasAgg(figure)
    with settings():
        figure.draw_without_rendering()  # everything gets its place, only no pixel its colour
    renderer = canvas.get_renderer()
    texts = [each for each in figure.findobj(matplotlib.text.Text) if each.get_text().strip()]
    assert min(text.get_fontsize() for text in texts) >= 8
    boxes = numpy.array([text.get_window_extent(renderer).extents for text in texts])
    outside = (boxes[:, :2] < -1) | (boxes[:, 2:] > numpy.array(figure.bbox.max) + 1)
    assert not [texts[n].get_text() for n in numpy.flatnonzero(outside.any(1))]
    low, high = boxes[:, None, :2] + 1.5, boxes[:, None, 2:] - 1.5
    meet = ((low < high.swapaxes(0, 1)) & (low.swapaxes(0, 1) < high)).all(2)
    pairs = numpy.argwhere(numpy.triu(meet, 1))
    assert not [(texts[a].get_text(), texts[b].get_text()) for a, b in pairs]
    pictures = [axes.get_window_extent(renderer).extents for axes in figure.axes]
    for text, box in zip(texts, boxes, strict=True):
        inside = [each for each in pictures if (box[:2] < each[2:] - 1).all()]
        inside = [each for each in inside if (box[2:] > each[:2] + 1).all()]
        assert not inside or text.get_text() == "not\nsupported", text.get_text()
    count = (1 + len(sheet.columns)) * len(sheet.names)
    sizes = [axes.get_position().width * figure.get_figwidth() for axes in figure.axes[:count]]
    assert min(sizes) >= 1.05


@pytest.mark.parametrize("kind", ["svg", "png", "pdf"])
def test_the_same_sheet_gives_the_same_bytes(kind, tmp_path):
    paths = [tmp_path / f"{name}.{kind}" for name in "ab"]
    for path in paths:
        save_sheet(draw_sheet(make_sheet(2, RULES[:3])), path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert sorted(tmp_path.iterdir()) == paths


def test_unusable_names_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"cannot write sheet\.jpg: .*\.svg, \.png, \.pdf"):
        check_output(tmp_path.relative_to(tmp_path) / "sheet.jpg")
    (tmp_path / "link.png").symlink_to(tmp_path / "cat.png")
    with pytest.raises(ValueError, match="is one of the images"):
        check_output(tmp_path / "link.png", [tmp_path / "cat.png"])
    check_output(tmp_path / "other.PNG", [tmp_path / "cat.png"])


def test_names_with_control_characters_stay_in_their_line():
    sheet = small(names=("two\nlines", "bell\a"))
    assert len(table(sheet).splitlines()) == 3
    assert "bell?" in words(draw_sheet(sheet))


def test_a_sheet_is_drawn_without_torch():
    program = "import sys, attrreg.figures.sheet; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
