"""Many images are decoded at once, each into its place; what is wrong with them is said at once."""

import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from own_images import encoded, grey, oriented, pixels, png
from PIL import Image

from attrreg.data.images import decode, decode_all
from attrreg.data.samples import Encoded
from attrreg.entries import ImageOptions

ROOT = Path(__file__).resolve().parents[2]


def quiet(stage, done, total):
    """Tell nobody."""


def samples(contents, masks=None, position=None):
    """Return encoded images, of which each is named after its place."""
    return Encoded(
        lambda at: contents[at],
        [f"cat/{at}.png" for at in range(len(contents))],
        np.arange(len(contents)) % 2,
        None if masks is None else lambda at: masks[at],
        position,
    )


def target(n, channels=3, side=8):
    return np.zeros((n, channels, side, side), dtype=np.uint8)


@pytest.mark.parametrize("n", [1, 7, 500])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_image_comes_into_its_place(n, channels):
    contents = [png(seed, *(8, 8 + seed % 5)) for seed in range(n)]
    position = np.random.default_rng(0).permutation(n)
    options = ImageOptions(image_size=8, resize="squash", channels=channels)
    found = target(n, channels)
    decode_all(samples(contents, position=position), found, None, options, quiet)
    for at in range(0, n, 13):
        assert np.array_equal(found[at], decode(contents[at], 8, "squash", channels, ""))
    assert len({each.tobytes() for each in found}) == n


def test_images_that_have_the_size_need_no_options():
    contents = [png(seed) for seed in range(5)]
    found = target(5)
    decode_all(samples(contents), found, None, ImageOptions(), quiet)
    assert np.array_equal(found[3], pixels(3).transpose(2, 0, 1))


@pytest.mark.parametrize("resize", ["crop", "pad", "squash"])
def test_masks_come_into_the_same_places_and_squares(resize):
    given = np.zeros((20, 16, 16), np.uint8)
    for at in range(20):
        given[at, :, at % 8 : 8] = 255
    contents = [encoded(each, exif=oriented(6)) for each in given]
    masks = [Image.fromarray(np.ascontiguousarray(np.rot90(each, -1))) for each in given]
    options = ImageOptions(image_size=16, resize=resize)
    found, region = target(20, 1, 16), np.zeros((20, 16, 16), bool)
    decode_all(samples(contents, masks), found, region, options, quiet)
    assert np.array_equal(region, found[:, 0] > 127)
    assert np.array_equal(found[5], grey(contents[5]))


def test_images_are_read_in_the_order_of_their_positions():
    read = []
    contents = [png(seed) for seed in range(20)]
    position = np.random.default_rng(1).permutation(20) * 1000
    given = samples(contents, position=position)
    listening = Encoded(
        lambda at: (read.append(at), contents[at])[1], given.names, given.y, None, position
    )
    decode_all(listening, target(20), None, ImageOptions(), quiet)
    assert read == np.argsort(position).tolist()


def test_samples_that_are_taken_keep_their_positions():
    given = samples([png(seed) for seed in range(6)], position=np.array([5, 3, 4, 0, 2, 1]))
    taken = given.take(np.array([4, 0, 5]))
    assert taken.position.tolist() == [2, 5, 1]
    found = target(3)
    decode_all(taken, found, None, ImageOptions(), quiet)
    for at, seed in enumerate((4, 0, 5)):
        assert np.array_equal(found[at], pixels(seed).transpose(2, 0, 1))
    assert samples([png(0)]).take(np.array([0])).position is None


def test_progress_rises_to_the_number_of_images():
    said = []
    decode_all(
        samples([png(0)] * 300), target(300), None, ImageOptions(), lambda *each: said.append(each)
    )
    assert {(stage, total) for stage, _, total in said} == {("decoding images", 300)}
    assert [done for _, done, _ in said] == sorted({done for _, done, _ in said})
    assert said[-1][1] == 300


class TestWhatIsWrong:
    """All that is wrong is collected; the first ten are named."""

    def refused(self, contents, options=None, **how):
        with pytest.raises(ValueError, match=r"give|restore|must") as error:
            decode_all(
                samples(contents, **how),
                target(len(contents), how.get("channels", 3)),
                np.zeros((len(contents), 8, 8), bool) if "masks" in how else None,
                options or ImageOptions(),
                quiet,
            )
        return str(error.value)

    def test_broken_images_are_counted_and_ten_of_them_named(self):
        contents = [png(seed) if seed % 4 else png(seed)[:60] for seed in range(100)]
        said = self.refused(contents)
        assert said.startswith("25 of 100 images cannot be used: cat/0.png is unreadable")
        assert [f"cat/{at}.png" in said for at in (0, 4, 36, 40, 96)] == [True] * 3 + [False] * 2
        assert said.endswith("… and 15 more")

    def test_what_is_said_does_not_depend_on_the_order_of_reading(self):
        contents = [b"" if seed % 3 else png(seed) for seed in range(70)]
        position = np.random.default_rng(2).permutation(70)
        assert self.refused(contents) == self.refused(contents, position=position)

    def test_other_sizes_are_counted_and_an_option_is_offered(self):
        contents = [png(0), png(1), png(2, 8, 9), png(3, 9, 8), png(4, 8, 9)]
        assert self.refused(contents) == (
            "3 of 5 images do not have 8×8 pixels but 9×8 (2), 8×9 (1); the first is cat/2.png: "
            "give image_size, and every image is brought to it"
        )

    def test_a_coloured_image_among_greys_is_refused_unless_channels_are_given(self):
        contents = [encoded(pixels(0, channels=1)), png(1)]
        with pytest.raises(ValueError, match=r"cat/1\.png is coloured.* give channels, 1 or 3"):
            decode_all(samples(contents), target(2, 1), None, ImageOptions(), quiet)
        decode_all(samples(contents), target(2, 1), None, ImageOptions(channels=1), quiet)
        decode_all(samples(contents), target(2, 3), None, ImageOptions(), quiet)

    def test_a_mask_that_is_not_as_large_as_its_image_is_named(self):
        masks = [Image.new("L", (8, 8)), Image.new("L", (8, 7))]
        assert "the mask of cat/1.png has 8×7" in self.refused([png(0), png(1)], masks=masks)

    def test_an_image_that_cannot_be_read_is_named(self):
        def read(at):
            raise PermissionError(13, "Permission denied", "/data/cat/0.png")

        with pytest.raises(ValueError, match=r"1 of 1 .*Permission denied.*/data/cat/0\.png"):
            decode_all(
                Encoded(read, ["a"], np.zeros(1, int)), target(1), None, ImageOptions(), quiet
            )

    def test_a_mistake_in_reading_is_no_broken_image(self):
        def read(at):
            raise KeyError("no such row")

        with pytest.raises(KeyError, match="no such row"):
            decode_all(
                Encoded(read, ["a"], np.zeros(1, int)), target(1), None, ImageOptions(), quiet
            )

    def test_targets_must_be_as_many_and_have_masks(self):
        with pytest.raises(ValueError, match="2 images without masks do not fit"):
            decode_all(samples([png(0)] * 2), target(3), None, ImageOptions(), quiet)
        with pytest.raises(ValueError, match="2 images without masks do not fit"):
            decode_all(
                samples([png(0)] * 2), target(2), np.zeros((2, 8, 8), bool), ImageOptions(), quiet
            )

    def test_a_bomb_is_an_error_and_no_warning(self):
        bomb = encoded(Image.new("1", (9_500, 9_500)))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert "cat/0.png is unreadable" in self.refused([bomb])


class TestInterruption:
    """Ctrl-C stops the decoding at once, and no thread goes on."""

    def test_what_the_report_raises_stops_all_threads(self):
        read, before = [], threading.active_count()
        content = png(0)

        def slow(at):
            read.append(at)
            time.sleep(0.001)
            return content

        def stop(stage, done, total):
            raise KeyboardInterrupt

        given = Encoded(slow, ["a"] * 5000, np.zeros(5000, int))
        with pytest.raises(KeyboardInterrupt):
            decode_all(given, target(5000), None, ImageOptions(), stop)
        assert 0 < len(read) < 1000
        assert threading.active_count() == before

    def test_a_signal_stops_a_process_that_decodes(self):
        code = (
            "import time, numpy as np\n"
            "from attrreg.data.images import decode_all\n"
            "from attrreg.data.samples import Encoded\n"
            "from attrreg.entries import ImageOptions\n"
            "def read(at):\n"
            "    if at == 40: print('reading', flush=True)\n"
            "    time.sleep(0.05)\n"
            "    return b''\n"
            "decode_all(Encoded(read, ['a'] * 10**5, np.zeros(10**5, int)),\n"
            "    np.zeros((10**5, 1, 1, 1), np.uint8), None, ImageOptions(), lambda *_: None)\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert process.stdout.readline() == "reading\n"
        process.send_signal(signal.SIGINT)
        started = time.monotonic()
        _, said = process.communicate(timeout=20)
        assert time.monotonic() - started < 5
        assert said.rstrip().endswith("KeyboardInterrupt")
