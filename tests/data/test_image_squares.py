"""Images of any shape become squares, and their masks cover what the squares show."""

import numpy as np
import pytest
from own_images import TURNED, colour, encoded, grey, oriented, pixels
from PIL import Image

from attrreg.data.images import decode_mask, look, read_mask


class TestSquares:
    """Images of any shape become squares, and their masks with them."""

    @pytest.mark.parametrize("resize", ["crop", "pad", "squash"])
    def test_an_image_that_has_the_size_keeps_every_pixel(self, resize):
        given = pixels(14, 12, 12)
        assert np.array_equal(colour(encoded(given), 12, resize), given.transpose(2, 0, 1))

    @pytest.mark.parametrize("shape", [(12, 20), (20, 12), (12, 21)])
    def test_what_needs_no_scaling_is_only_cut(self, shape):
        given = pixels(15, *shape)
        top, left = (shape[0] - 12) // 2, (shape[1] - 12) // 2
        cut = given[top : top + 12, left : left + 12]
        assert np.array_equal(colour(encoded(given), 12), cut.transpose(2, 0, 1))

    @pytest.mark.parametrize("shape", [(8, 12), (12, 8), (12, 7)])
    def test_what_needs_no_scaling_is_only_padded_with_black(self, shape):
        given = pixels(16, *shape)
        wanted = np.zeros((12, 12, 3), np.uint8)
        top, left = (12 - shape[0]) // 2, (12 - shape[1]) // 2
        wanted[top : top + shape[0], left : left + shape[1]] = given
        assert np.array_equal(colour(encoded(given), 12, "pad"), wanted.transpose(2, 0, 1))

    @pytest.mark.parametrize("resize", ["crop", "pad", "squash"])
    @pytest.mark.parametrize("shape", [(1, 40), (40, 1), (3, 5), (37, 90)])
    def test_every_shape_becomes_a_square(self, resize, shape):
        assert colour(encoded(pixels(17, *shape)), 16, resize).shape == (3, 16, 16)

    def test_smaller_images_average_all_pixels(self):
        board = ((np.indices((64, 64)).sum(0) % 2) * 255).astype(np.uint8)
        found = grey(encoded(board), 8, "squash")
        assert np.abs(found.astype(int) - 127).max() < 8

    @pytest.mark.parametrize("resize", ["crop", "pad", "squash"])
    @pytest.mark.parametrize(("shape", "size"), [((32, 64), 16), ((64, 32), 16), ((8, 16), 32)])
    @pytest.mark.parametrize("orientation", [1, 6])
    @pytest.mark.parametrize("above", [False, True], ids=["left", "above"])
    def test_a_mask_covers_what_its_image_shows(self, resize, shape, size, orientation, above):
        given = np.zeros(shape, np.uint8)
        if above:
            given[shape[0] // 4 : shape[0] // 2] = 255
        else:
            given[:, shape[1] // 4 : shape[1] // 2] = 255
        content = encoded(given, exif=oriented(orientation))
        mask = read_mask(encoded(TURNED[orientation](given)), "masks/a.png")
        width, height, _ = look(content)
        region = decode_mask(mask, (width, height), size, resize, "a.png")
        assert region.dtype == bool
        assert 0 < region.mean() < 1
        assert np.array_equal(region, grey(content, size, resize)[0] > 127)

    def test_a_mask_of_another_size_than_its_image_is_refused(self):
        mask = Image.new("L", (8, 6))
        with pytest.raises(ValueError, match=r"mask of a\.png has 8×6 .* 6×8: .* as large"):
            decode_mask(mask, (6, 8), None, "crop", "a.png")

    @pytest.mark.parametrize("resize", ["crop", "pad", "squash"])
    @pytest.mark.parametrize("shape", [(301, 467), (467, 301), (640, 480), (388, 301)])
    @pytest.mark.parametrize("orientation", [1, 6])
    def test_a_photograph_may_be_decoded_smaller_and_looks_the_same(
        self, resize, shape, orientation
    ):
        across, down = np.linspace(0, 6, shape[1]), np.linspace(0, 9, shape[0])
        waves = 127 + 60 * np.sin(down)[:, None] + 60 * np.cos(across)
        content = encoded(waves.astype(np.uint8), "JPEG", exif=oriented(orientation), quality=95)
        whole = encoded(grey(content)[0])
        small = grey(content, 32, resize).astype(int)
        assert np.abs(small - grey(whole, 32, resize)).max() <= 4


class TestMasks:
    """A mask is inside where a value is not zero, whatever holds it."""

    inside = pixels(18, 6, 9, channels=1) > 100

    @pytest.mark.parametrize(
        "image",
        [
            Image.fromarray(inside),
            Image.fromarray(inside.astype(np.uint8)),
            Image.fromarray(inside.astype(np.uint16) * 256),
            Image.fromarray(np.stack([inside * 0, inside * 0, inside], 2).astype(np.uint8)),
            Image.fromarray(np.stack([inside * 9] * 4, 2).astype(np.uint8)),
            Image.fromarray(np.stack([inside * 9] * 3 + [inside * 0 + 255], 2).astype(np.uint8)),
            Image.fromarray(np.stack([inside * 9, inside * 0 + 255], 2).astype(np.uint8), "LA"),
        ],
        ids=lambda image: image.mode,
    )
    def test_it_is_read_from_every_kind_of_image(self, image):
        mask = read_mask(encoded(image), "masks/a.png")
        assert mask.mode == "L"
        assert np.array_equal(np.asarray(mask), self.inside * 255)

    def test_of_a_palette_the_places_count_and_not_the_colours(self):
        image = Image.fromarray(self.inside.astype(np.uint8)).convert("P")
        image.putpalette([255, 255, 255, 0, 0, 0])
        assert np.array_equal(np.asarray(read_mask(encoded(image), "m")) > 0, self.inside)
