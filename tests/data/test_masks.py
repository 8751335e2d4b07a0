"""A region covers just the pixels of its image that it should, however the image is turned."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from attrreg.data.images import decode, decode_mask
from attrreg.data.masks import box_region, mask_values, region_image

ORIENTATION = 0x0112


def save(path, values, **options):
    Image.fromarray(values).save(path, **options)
    return path


@pytest.fixture
def image(tmp_path):
    return save(tmp_path / "image.png", np.zeros((4, 6, 3), dtype=np.uint8))


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("ending", ["png", "tiff"])
def test_a_region_is_turned_with_its_image(tmp_path, orientation, ending):
    """The image shows its own region; 0 and 9 are no orientations and turn nothing."""
    inside = np.random.default_rng(1).random((4, 6)) < 0.5
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = save(tmp_path / f"a.{ending}", (inside * 255).astype(np.uint8), exif=exif)
    region = region_image(inside, path)
    shown = decode(path.read_bytes(), None, "crop", 1, "a")[0]
    assert np.array_equal(np.asarray(region), shown)
    assert np.array_equal(decode_mask(region, shown.shape[::-1], None, "crop", "a"), shown > 0)


SIDES = st.integers(-24, 96).map(lambda eighths: eighths / 8)  # which add up exactly


@settings(deadline=None)
@given(st.tuples(SIDES, SIDES, SIDES, SIDES))
def test_a_box_covers_every_pixel_that_it_touches(tmp_path_factory, box):
    path = save(tmp_path_factory.mktemp("box") / "a.png", np.zeros((7, 9), dtype=np.uint8))
    left, top, width, height = box
    expected = np.array(
        [
            [
                min(column + 1, left + width) > max(column, left)
                and min(row + 1, top + height) > max(row, top)
                for column in range(9)
            ]
            for row in range(7)
        ]
    )
    if expected.any():
        assert np.array_equal(np.asarray(box_region(path, box)) == 255, expected)
    else:
        with pytest.raises(ValueError, match=r"holds no pixel of .*/a\.png, which has 9×7"):
            box_region(path, box)


def test_a_box_of_no_number_is_refused(image):
    with pytest.raises(ValueError, match="holds no pixel"):
        box_region(image, (1.0, float("nan"), 2.0, 2.0))


def test_values_are_those_of_the_file(tmp_path, image):
    grey = np.arange(24, dtype=np.uint8).reshape(4, 6)
    assert np.array_equal(mask_values(save(tmp_path / "l.png", grey), image, ["L"]), grey)
    colours = np.stack([grey, grey + 1, grey + 2], axis=-1)
    assert np.array_equal(mask_values(save(tmp_path / "c.png", colours), image, ["RGB"]), colours)


def test_of_a_palette_the_places_count_and_not_the_colours(tmp_path, image):
    places = np.arange(24, dtype=np.uint8).reshape(4, 6) % 4
    picture = Image.fromarray(places).convert("P")
    picture.putpalette([200, 100, 50] * 4)
    picture.save(tmp_path / "p.png")
    assert np.array_equal(mask_values(tmp_path / "p.png", image, ["L", "P"]), places)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "1"])
def test_without_modes_all_are_grey(tmp_path, image, mode):
    grey = np.where(np.arange(24).reshape(4, 6) % 3, 255, 0).astype(np.uint8)
    Image.fromarray(grey).convert(mode, dither=Image.Dither.NONE).save(tmp_path / "m.png")
    assert np.array_equal(mask_values(tmp_path / "m.png", image), grey)


def test_other_modes_are_refused(tmp_path, image):
    path = save(tmp_path / "m.png", np.zeros((4, 6, 3), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"m\.png is of mode RGB, expected L or P"):
        mask_values(path, image, ["L", "P"])


def test_a_mask_of_another_size_is_refused(tmp_path, image):
    path = save(tmp_path / "m.png", np.zeros((6, 4), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"m\.png has 4×6 pixels, its image .*image\.png 6×4"):
        mask_values(path, image)


@pytest.mark.parametrize("cut", [0, 10, 60])
def test_a_mask_that_is_cut_short_is_refused(tmp_path, image, cut):
    path = save(tmp_path / "m.png", np.arange(24, dtype=np.uint8).reshape(4, 6))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"m\.png is unreadable as an image"):
        mask_values(path, image)


def test_a_program_in_place_of_an_image_is_not_opened(tmp_path, image):
    """Pillow hands PostScript to another program."""
    path = tmp_path / "m.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 4\n%%EndComments\nshowpage\n")
    with pytest.raises(ValueError, match=r"m\.png is unreadable as an image \(of no known kind\)"):
        mask_values(path, image)
