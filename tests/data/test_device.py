"""Batches have one size and use every sample equally often; augmentation is right per sample."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attrreg.data.device import (
    TrainingSet,
    batch_indices,
    draw_movement,
    input_bounds,
    normalise,
)
from attrreg.data.samples import Arrays
from attrreg.recipe import Augmentation

SHAPES = [(1, 1, 4, 6), (1, 3, 5, 5), (40, 1, 6, 4), (7, 2, 3, 3)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def augment(x, augmentation, source):
    """Draw and apply."""
    return draw_movement(x, augmentation, source).apply(x)


class TestBatchIndices:
    """Passes over the set follow one another without a seam."""

    @settings(deadline=None)
    @given(st.integers(1, 70), st.integers(1, 40), st.integers(1, 30), st.integers(0, 99))
    def test_sizes_are_static_and_samples_used_equally(self, n, batch_size, steps, seed):
        batches = list(batch_indices(n, batch_size, steps, generator(seed)))
        assert len(batches) == steps
        assert {tuple(indices.shape) for indices, _ in batches} == {(min(batch_size, n),)}
        used = torch.cat([indices for indices, _ in batches])
        assert used.dtype == torch.int64
        for begin in range(0, len(used), n):  # each pass is a permutation, the last one cut short
            passed = used[begin : begin + n].tolist()
            assert len(set(passed)) == len(passed)
            assert set(passed) <= set(range(n))

    @settings(deadline=None)
    @given(st.integers(1, 70), st.integers(1, 40), st.integers(1, 30))
    def test_the_number_of_passes_is_what_was_completed(self, n, batch_size, steps):
        used = 0
        for indices, completed in batch_indices(n, batch_size, steps, generator()):
            used += len(indices)
            assert completed == used // n

    def test_the_order_differs_between_epochs_and_seeds_but_not_otherwise(self):
        first, again, other = (
            torch.stack([indices for indices, _ in batch_indices(50, 50, 4, generator(seed))])
            for seed in (1, 1, 2)
        )
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        assert len({tuple(order.tolist()) for order in first}) == 4

    def test_more_steps_begin_with_the_same_batches(self):
        few = [indices for indices, _ in batch_indices(23, 10, 5, generator())]
        many = [indices for indices, _ in batch_indices(23, 10, 9, generator())]
        assert all(map(torch.equal, few, many))


class TestAugment:
    """Against a plain reference, one sample at a time."""

    @staticmethod
    def crops(sample, pad):
        """Return every crop of one sample after zero padding, by its place."""
        height, width = sample.shape[-2:]
        padded = np.pad(sample.numpy(), ((0, 0), (pad, pad), (pad, pad)))
        return {
            (top, left): padded[:, top : top + height, left : left + width]
            for top in range(2 * pad + 1)
            for left in range(2 * pad + 1)
        }

    @staticmethod
    def place(found, crops):
        """Return the place of the crop that was made."""
        return [at for at, crop in crops.items() if np.array_equal(found.numpy(), crop)]

    @staticmethod
    def images(shape, seed=0):
        """Return images of which no two values are equal."""
        values = torch.randperm(int(np.prod(shape)), generator=generator(seed)) + 1.0
        return values.view(shape)

    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("pad", [1, 2])
    def test_every_sample_is_one_of_its_own_crops(self, shape, pad):
        x = self.images(shape)
        found = augment(x, Augmentation(crop_padding=pad), generator())
        assert (found.shape, found.dtype) == (x.shape, x.dtype)
        for before, after in zip(x, found, strict=True):
            assert len(self.place(after, self.crops(before, pad))) == 1

    def test_all_places_are_equally_likely_and_samples_have_their_own(self):
        x, pad, rounds = self.images((40, 1, 6, 4)), 1, 50
        counts, source = np.zeros((3, 3)), generator()
        together = 0
        for _ in range(rounds):
            found = augment(x, Augmentation(crop_padding=pad), source)
            places = [
                self.place(after, self.crops(before, pad))[0]
                for before, after in zip(x, found, strict=True)
            ]
            together += len(set(places)) == 1
            for at in places:
                counts[at] += 1
        share = counts / counts.sum()
        assert together == 0
        assert np.abs(share - 1 / 9).max() < 5 * np.sqrt(1 / 9 * 8 / 9 / (40 * rounds))

    @pytest.mark.parametrize("shape", SHAPES)
    def test_every_sample_is_flipped_left_to_right_or_not_at_all(self, shape):
        x = self.images(shape)
        found = augment(x, Augmentation(flip=True), generator())
        for before, after in zip(x, found, strict=True):
            assert torch.equal(after, before) or torch.equal(after, before.flip(-1))

    def test_half_of_the_samples_are_flipped(self):
        x = self.images((1000, 1, 2, 2))
        found = augment(x, Augmentation(flip=True), generator())
        flipped = (found != x).flatten(1).any(1).double().mean()
        assert abs(flipped - 0.5) < 5 * 0.5 / np.sqrt(1000)

    def test_nothing_is_done_unasked_and_the_input_is_left_alone(self):
        x = self.images((8, 1, 4, 4))
        kept = x.clone()
        assert torch.equal(augment(x, Augmentation(), generator()), x)
        augment(x, Augmentation(crop_padding=1, flip=True), generator())
        assert torch.equal(x, kept)

    @settings(deadline=None)
    @given(st.integers(0, 1000))
    def test_the_same_stream_gives_the_same_images(self, seed):
        x, settings_ = self.images((8, 2, 4, 4)), Augmentation(crop_padding=1, flip=True)
        first, again = (augment(x, settings_, generator(seed)) for _ in range(2))
        assert torch.equal(first, again)


class TestMovement:
    """Maps move with their images, and back."""

    SETTINGS = Augmentation(crop_padding=2, flip=True)

    def test_draws_are_the_corners_first_and_the_coins_then(self):
        x, source = torch.zeros(6, 1, 4, 4), generator(3)
        movement = draw_movement(x, self.SETTINGS, source)
        assert torch.equal(
            movement.offsets, torch.randint(0, 5, (2, 6), generator=(again := generator(3)))
        )
        assert torch.equal(movement.flipped, torch.rand(6, generator=again) < 0.5)
        assert torch.equal(source.get_state(), again.get_state())
        nothing = draw_movement(x, Augmentation(), source)
        assert (nothing.offsets, nothing.flipped) == (None, None)
        assert torch.equal(source.get_state(), again.get_state())

    @pytest.mark.parametrize("pad", [0, 1, 3])
    @pytest.mark.parametrize("flip", [False, True])
    def test_images_against_numpy(self, pad, flip):
        x = torch.randn(20, 3, 5, 4, generator=generator())
        movement = draw_movement(x, Augmentation(crop_padding=pad, flip=flip), generator(1))
        found = movement.apply(x)
        padded = np.pad(x.numpy(), ((0, 0), (0, 0), (pad, pad), (pad, pad)))
        for place in range(20):
            top, left = movement.offsets[:, place].tolist() if pad else (0, 0)
            crop = padded[place, :, top : top + 5, left : left + 4]
            flipped = flip and movement.flipped[place]
            assert np.array_equal(found[place].numpy(), crop[..., ::-1] if flipped else crop)

    @pytest.mark.parametrize("pad", [0, 1, 3])
    @pytest.mark.parametrize("flip", [False, True])
    def test_maps_move_as_images_and_have_their_median_elsewhere(self, pad, flip):
        maps = torch.randn(20, 5, 3, generator=generator())
        movement = draw_movement(
            maps[:, None], Augmentation(crop_padding=pad, flip=flip), generator(1)
        )
        found = movement.apply_to_maps(maps)
        inside = movement.apply(torch.ones_like(maps)[:, None])[:, 0] == 1
        median = torch.from_numpy(np.median(maps.flatten(1), 1)).view(-1, 1, 1)
        expected = torch.where(inside, movement.apply(maps[:, None])[:, 0], median)
        assert torch.equal(found, expected)

    @pytest.mark.parametrize("pad", [0, 1, 3])
    @pytest.mark.parametrize("flip", [False, True])
    def test_undoing_gives_back_what_was_not_cut_off(self, pad, flip):
        images = torch.randperm(20 * 35, generator=generator()).float().view(20, 1, 7, 5) + 1
        movement = draw_movement(images, Augmentation(crop_padding=pad, flip=flip), generator(1))
        moved = movement.apply(images)[:, 0]
        found = movement.undo(moved)
        seen = torch.stack(
            [torch.isin(image, row) for image, row in zip(images[:, 0], moved, strict=True)]
        )
        median = torch.from_numpy(np.median(moved.flatten(1), 1)).view(-1, 1, 1)
        assert torch.equal(found, torch.where(seen, images[:, 0], median))
        assert seen.all() == (pad == 0)

    def test_maps_are_left_alone(self):
        maps = torch.randn(4, 5, 3, generator=generator())
        kept = maps.clone()
        movement = draw_movement(maps[:, None], self.SETTINGS, generator())
        movement.apply_to_maps(maps)
        movement.undo(maps)
        assert torch.equal(maps, kept)


class TestNormalise:
    """What models see has mean 0 and deviation 1 over the pool."""

    @pytest.mark.parametrize("channels", [1, 3])
    def test_against_the_formula(self, channels):
        x = torch.randint(0, 256, (5, channels, 4, 4), generator=generator(), dtype=torch.uint8)
        scaled = x.double() / 255
        mean, deviation = scaled.mean((0, 2, 3)), scaled.std((0, 2, 3), correction=0)
        found = normalise(x, mean.float(), deviation.float())
        assert found.dtype == torch.float32
        torch.testing.assert_close(
            found.double().mean((0, 2, 3)), torch.zeros(channels).double(), atol=1e-6, rtol=0
        )
        torch.testing.assert_close(
            found.double().std((0, 2, 3), correction=0), torch.ones(channels).double()
        )

    def test_a_constant_channel_is_only_centred(self):
        x = torch.full((2, 2, 3, 3), 51, dtype=torch.uint8)
        x[:, 1] = torch.arange(9, dtype=torch.uint8).view(3, 3)
        found = normalise(x, torch.tensor([0.25, 0.0]), torch.tensor([0.0, 0.5]))
        torch.testing.assert_close(found[:, 0], torch.full((2, 3, 3), 0.2 - 0.25))
        torch.testing.assert_close(found[0, 1], torch.arange(9.0).view(3, 3) / 255 / 0.5)

    def test_bounds_are_the_extreme_values_of_a_pixel(self):
        mean, deviation = torch.tensor([0.25, 0.5]), torch.tensor([0.5, 0.0])
        low, high = input_bounds(mean, deviation)
        assert low == (-0.5, -0.5)  # a constant channel is only centred
        assert high == (1.5, 0.5)
        x = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 2, 1, 1)
        assert normalise(x, mean, deviation).flatten().tolist() == [*low, *high]

    def test_a_batch_of_the_training_set(self):
        x = np.arange(3 * 1 * 2 * 2, dtype=np.uint8).reshape(3, 1, 2, 2)
        mean, deviation = np.array([0.5], np.float32), np.array([0.25], np.float32)
        data = TrainingSet.on(torch.device("cpu"), Arrays(x, np.array([7, 8, 9])), mean, deviation)
        inputs, labels = data.batch(torch.tensor([2, 0, 2]))
        assert labels.tolist() == [9, 7, 9]
        expected = (torch.from_numpy(x[[2, 0, 2]]) / 255 - 0.5) / 0.25
        torch.testing.assert_close(inputs, expected)

    def test_the_training_set_is_a_copy(self):
        x, y = np.zeros((2, 1, 2, 2), np.uint8), np.array([0, 1])
        data = TrainingSet.on(torch.device("cpu"), Arrays(x, y), np.zeros(1), np.ones(1))
        x[:], y[:] = 1, 5
        assert data.x.sum() == 0
        assert data.y.tolist() == [0, 1]
