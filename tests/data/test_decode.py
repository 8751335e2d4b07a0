"""Whatever holds an image, its pixels arrive as they are meant; what holds none is refused."""

import struct
import zlib

import numpy as np
import pytest
from own_images import TURNED, colour, encoded, grey, oriented, pixels
from PIL import Image

from attrreg.data.images import decode, look, read_mask

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # of broken metadata

LOSSLESS = [
    ("PNG", {}),
    ("BMP", {}),
    ("PPM", {}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("WEBP", {"lossless": True}),
]


class TestPixels:
    """Every kind of image gives the values that it holds."""

    @pytest.mark.parametrize(("kind", "how"), LOSSLESS, ids=str)
    def test_colours_that_are_stored_without_loss_are_the_same(self, kind, how):
        given = pixels(0, 6, 9)
        found = colour(encoded(given, kind, **how))
        assert found.dtype == np.uint8
        assert np.array_equal(found, given.transpose(2, 0, 1))

    @pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM", "TIFF"])
    def test_greys_that_are_stored_without_loss_are_the_same(self, kind):
        given = pixels(1, 6, 9, channels=1)
        assert np.array_equal(grey(encoded(given, kind)), given[None])

    @pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM", "BMP", "GIF"])
    def test_single_bits_are_black_and_white(self, kind):
        given = pixels(2, 6, 9, channels=1) > 100
        found = grey(encoded(Image.fromarray(given), kind))
        assert np.array_equal(found, given[None] * np.uint8(255))

    def test_a_jpeg_is_nearly_what_was_stored(self):
        smooth = np.add.outer(np.arange(64), np.arange(64))[..., None] * np.array([1, 1.5, 0.5])
        given = smooth.astype(np.uint8)
        found = colour(encoded(given, "JPEG", quality=95)).transpose(1, 2, 0)
        assert np.abs(found.astype(int) - given).max() < 12

    def test_colour_becomes_grey_by_its_luma(self):
        given = pixels(3, 16, 16)
        wanted = given @ np.array([0.299, 0.587, 0.114])
        assert np.abs(grey(encoded(given))[0] - wanted).max() <= 0.51

    def test_grey_becomes_three_equal_channels_and_grey_again(self):
        given = pixels(4, 8, 8, channels=1)
        found = colour(encoded(given))
        assert np.array_equal(found, np.stack([given] * 3))
        assert np.array_equal(grey(encoded(found.transpose(1, 2, 0))), given[None])

    @pytest.mark.parametrize("kind", ["PNG", "GIF", "TIFF", "BMP"])
    def test_a_palette_is_looked_up(self, kind):
        places = np.random.default_rng(5).integers(0, 4, (6, 9)).astype(np.uint8)
        palette = np.array([[255, 0, 0], [0, 128, 0], [9, 9, 200], [77, 77, 77]], np.uint8)
        image = Image.fromarray(places).convert("P")
        image.putpalette(palette.tobytes())
        assert np.array_equal(colour(encoded(image, kind)), palette[places].transpose(2, 0, 1))

    @pytest.mark.parametrize("kind", ["PNG", "GIF"])
    def test_a_transparent_place_of_a_palette_is_white(self, kind):
        places = np.arange(64, dtype=np.uint8).reshape(8, 8) % 3
        image = Image.fromarray(places).convert("P")
        image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
        found = colour(encoded(image, kind, transparency=1))
        assert (found[:, places == 1] == 255).all()
        assert (found[:, places == 2].T == [70, 80, 90]).all()

    def test_a_transparent_colour_or_grey_is_white(self):
        given = pixels(6, 8, 8)
        found = colour(encoded(given, "PNG", transparency=tuple(given[2, 3].tolist())))
        assert (found[:, 2, 3] == 255).all()
        assert np.array_equal(found[:, 0, 0], given[0, 0])
        dark = np.arange(64, dtype=np.uint8).reshape(8, 8)
        assert grey(encoded(dark, "PNG", transparency=5))[0, 0, 5] == 255

    @pytest.mark.parametrize(("kind", "how"), [("PNG", {}), ("TIFF", {}), ("WEBP", LOSSLESS[5][1])])
    def test_half_transparent_colours_lie_over_white(self, kind, how):
        given = np.random.default_rng(7).integers(0, 256, (16, 16, 4), dtype=np.uint8)
        given[:4, :, 3], given[4:8, :, 3] = 255, 0
        found = colour(encoded(given, kind, **how)).transpose(1, 2, 0)
        share = given[..., 3:] / 255
        assert np.abs(found - (given[..., :3] * share + 255 * (1 - share))).max() <= 1
        assert np.array_equal(found[:4], given[:4, :, :3])
        assert (found[4:8] == 255).all()

    def test_half_transparent_grey_lies_over_white(self):
        given = np.random.default_rng(8).integers(0, 256, (8, 8, 2), dtype=np.uint8)
        share = given[..., 1] / 255
        found = grey(encoded(Image.fromarray(given, "LA")))[0]
        assert np.abs(found - (given[..., 0] * share + 255 * (1 - share))).max() <= 1

    @pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM", "TIFF, big end first"])
    def test_16_bit_grey_is_divided_by_257_and_rounded(self, kind):
        given = np.linspace(0, 65535, 4096).astype(np.uint16).reshape(64, 64)
        stored = given.astype(">u2") if "big" in kind else given
        content = encoded(stored, kind.partition(",")[0])
        assert np.array_equal(grey(content)[0], np.rint(given / 257))
        assert np.array_equal(colour(content)[1], np.rint(given / 257))

    def test_the_first_of_several_frames_is_taken(self):
        frames = [Image.fromarray(pixels(seed, 8, 8, channels=1)) for seed in (9, 10)]
        for kind, how in [("GIF", {}), ("TIFF", {}), ("PNG", {}), ("WEBP", {"lossless": True})]:
            content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **how)
            assert np.array_equal(grey(content)[0], np.asarray(frames[0])), kind


class TestInks:
    """Four inks, which JPEG files hold the wrong way round."""

    @staticmethod
    def inks(*values):
        return Image.fromarray(np.full((16, 16, 4), values, np.uint8), "CMYK")

    @staticmethod
    def printed(c, m, y, k):
        return np.array([(255 - each) * (255 - k) / 255 for each in (c, m, y)])

    @pytest.mark.parametrize("inks", [(0, 0, 0, 0), (255, 0, 0, 0), (30, 90, 200, 40)], ids=str)
    @pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
    def test_more_ink_is_darker(self, kind, inks):
        found = colour(encoded(self.inks(*inks), kind)).mean((1, 2))
        assert np.abs(found - self.printed(*inks)).max() < 5

    def test_inks_may_be_stored_as_luma_and_differences(self):
        """As Photoshop does: YCCK, of which the first three are those of inverted inks."""
        luma, blue, red, black = 120, 90, 150, 60  # as stored
        content = bytearray(
            encoded(
                self.inks(*(255 - each for each in (luma, blue, red, black))), "JPEG", quality=100
            )
        )
        content[content.index(b"Adobe") + 11] = 2  # the transform that the marker names
        stored = np.array(
            [
                luma + 1.402 * (red - 128),
                luma - 0.344136 * (blue - 128) - 0.714136 * (red - 128),
                luma + 1.772 * (blue - 128),
            ]
        )
        found = colour(bytes(content)).mean((1, 2))
        assert np.abs(found - self.printed(*stored, 255 - black)).max() < 5


class TestOrientation:
    """Images are turned as their metadata say."""

    @pytest.mark.parametrize("orientation", TURNED)
    @pytest.mark.parametrize(("kind", "how"), [("PNG", {}), ("TIFF", {}), ("WEBP", LOSSLESS[5][1])])
    def test_an_image_is_turned_upright(self, kind, how, orientation):
        given = pixels(11, 4, 7)
        content = encoded(given, kind, exif=oriented(orientation), **how)
        wanted = TURNED[orientation](given)
        assert np.array_equal(colour(content), wanted.transpose(2, 0, 1))
        assert look(content) == (wanted.shape[1], wanted.shape[0], 3)

    @pytest.mark.parametrize("orientation", TURNED)
    def test_a_photograph_is_turned_upright(self, orientation):
        given = np.zeros((32, 48), np.uint8)
        given[:16, :16] = 255
        content = encoded(given, "JPEG", exif=oriented(orientation))
        wanted = TURNED[orientation](given)
        assert np.abs(grey(content)[0].astype(int) - wanted).max() < 30
        assert look(content) == (wanted.shape[1], wanted.shape[0], 1)

    def test_metadata_behind_the_pixels_count(self):
        given = pixels(12, 4, 7)
        content = encoded(given, exif=oriented(6))
        at = content.index(b"eXIf") - 4
        chunk = content[at : at + 12 + struct.unpack(">I", content[at : at + 4])[0]]
        end = content.index(b"IEND") - 4
        moved = content[:at] + content[at + len(chunk) : end] + chunk + content[end:]
        assert np.array_equal(colour(moved), TURNED[6](given).transpose(2, 0, 1))
        assert look(moved) == (4, 7, 3)

    def test_broken_metadata_of_a_good_image_do_not_count(self):
        given = pixels(13, 4, 7)
        for exif in (b"Exif\0\0nonsense", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"):
            assert np.array_equal(colour(encoded(given, exif=exif)), given.transpose(2, 0, 1))


class TestHeads:
    """A look tells size and channels without decoding."""

    @pytest.mark.parametrize(
        ("image", "channels"),
        [
            (Image.new("L", (5, 4)), 1),
            (Image.new("1", (5, 4)), 1),
            (Image.new("LA", (5, 4)), 1),
            (Image.new("I;16", (5, 4)), 1),
            (Image.new("RGB", (5, 4)), 3),
            (Image.new("RGBA", (5, 4)), 3),
        ],
        ids=lambda each: getattr(each, "mode", each),
    )
    def test_it_tells_size_and_channels(self, image, channels):
        assert look(encoded(image)) == (5, 4, channels)

    def test_a_palette_of_greys_is_grey_and_one_of_colours_coloured(self):
        for palette, channels in (([0, 0, 0, 90, 90, 90], 1), ([0, 0, 0, 90, 91, 90], 3)):
            image = Image.new("P", (5, 4))
            image.putpalette(palette)
            assert look(encoded(image)) == (5, 4, channels)

    def test_it_does_not_need_the_pixels(self):
        content = encoded(pixels(19, 40, 50))
        assert look(content[: content.index(b"IDAT") + 8]) == (50, 40, 3)


def png_head(width, height):
    """Return the beginning of a PNG of some size, with as good as no pixels."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


class TestWhatIsNoImage:
    """Nothing broken, cut short or misleading gets through, and the message names it."""

    @pytest.mark.parametrize(("kind", "how"), [*LOSSLESS, ("JPEG", {}), ("GIF", {})], ids=str)
    @pytest.mark.parametrize("kept", [0.05, 0.5, 0.9])
    def test_an_image_cut_short_is_refused(self, kind, how, kept):
        content = encoded(pixels(20, 64, 64), kind, **how)
        with pytest.raises(ValueError, match=r"^cat/a\.png .*restore or remove it$"):
            decode(content[: int(kept * len(content))], None, "crop", 3, "cat/a.png")

    def test_an_empty_file_is_called_empty(self):
        for use in (colour, look, lambda content: read_mask(content, "a.png")):
            with pytest.raises(ValueError, match="is empty: restore or remove it"):
                use(b"")

    @pytest.mark.parametrize(
        "content",
        [
            b"hello",
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n",
            b"%PDF-1.4\n",
            b"<svg xmlns='http://www.w3.org/2000/svg'/>",
            b"\x80\x04\x95.",
            b"PK\x03\x04" + b"\0" * 40,
            bytes(1000),
        ],
        ids=["text", "postscript", "pdf", "svg", "pickle", "zip", "zeros"],
    )
    def test_what_is_no_image_is_refused_with_its_first_bytes(self, content):
        for use in (colour, look, lambda content: read_mask(content, "a.png")):
            with pytest.raises(ValueError, match=r"is no readable image.*begin with b.*JPEG"):
                use(content)

    def test_a_broken_checksum_is_refused(self):
        content = bytearray(encoded(pixels(21, 64, 64)))
        content[content.index(b"IDAT") + 40] ^= 255
        with pytest.raises(ValueError, match=r"a\.png is unreadable as an image"):
            colour(bytes(content))

    @pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
    @pytest.mark.parametrize("side", [9_500, 15_000, 60_000])
    def test_a_decompression_bomb_is_refused_before_it_goes_off(self, side):
        for use in (colour, look, lambda content: read_mask(content, "a.png")):
            with pytest.raises(ValueError, match=r"a\.png|the image") as error:
                use(png_head(side, side))
            assert "pixels" in str(error.value)

    @pytest.mark.parametrize(
        ("values", "said"),
        [
            (np.linspace(0, 1, 64, dtype=np.float32), "floating-point numbers, from 0.0 to 1.0"),
            (np.arange(64, dtype=np.int32), "32-bit or signed numbers, from 0 to 63"),
        ],
        ids=["float", "int"],
    )
    def test_numbers_without_a_known_white_are_refused(self, values, said):
        with pytest.raises(ValueError, match=rf"a\.png .*{said}.*save it with 8 or 16 bits"):
            grey(encoded(values.reshape(8, 8), "TIFF"))

    def test_random_damage_gives_pixels_or_a_clear_error(self):
        generator = np.random.default_rng(22)
        originals = [encoded(pixels(23, 24, 24), kind) for kind in ("PNG", "JPEG", "GIF", "TIFF")]
        outcomes = set()
        for round_ in range(400):
            content = bytearray(originals[round_ % 4])
            for place in generator.integers(0, len(content), 6):
                content[place] = generator.integers(256)
            try:
                outcomes.add(colour(bytes(content), 16).shape)
            except ValueError as error:
                assert str(error).startswith("a.png is ")  # noqa: PT017
                outcomes.add("refused")
        assert outcomes == {(3, 16, 16), "refused"}
