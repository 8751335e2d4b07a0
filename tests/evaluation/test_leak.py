"""The probe reads what is there and nothing else; its interval covers; masks are the method's."""

import copy
import dataclasses
import itertools

import numpy as np
import pytest
import torch
from experiments import prepare_data
from scipy import stats
from torch import nn

from attrreg import catalogue, method
from attrreg.data.prepare import read_embedded
from attrreg.data.sources import read_pool
from attrreg.data.subsets import read_subset
from attrreg.evaluation import leak, leak_readings
from attrreg.evaluation.leak import Question, answer, draw_masks, interval, probe, sentences, table
from attrreg.state import State
from attrreg.training.checkpoint import load_weights
from attrreg.training.runs import build_model, train_shard

CPU = torch.device("cpu")
QUICK = Question("random-erasing", "digits", train_size=20, steps=2, draws=1)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare_data(tmp_path_factory.mktemp("data"), seeds=[0])


def carried(classes, shape, generator, error):
    """Return masks of two features that tell a class, wrong for a share of them, among noise."""
    n_classes = int(classes.max()) + 1
    wrong = torch.rand(len(classes), generator=generator) < error
    other = torch.randint(1, n_classes, (len(classes),), generator=generator)
    told = torch.where(wrong, (classes + other) % n_classes, classes)
    masks = torch.rand(len(classes), *shape, generator=generator) < 0.3
    flat = masks.flatten(1)
    flat[:, : 2 * n_classes] = nn.functional.one_hot(told, n_classes).repeat(1, 2).bool()
    return flat.view(masks.shape)


def read(masks, classes, held_out, n_classes, **options):
    """Train a probe on the first masks and test it on the others, one per image."""
    n = len(masks) - held_out
    return probe(
        *(masks[:n], classes[:n], masks[n:], classes[n:], torch.arange(held_out)),
        n_classes=n_classes,
        **{"seed": 0} | options,
    )


class TestProbe:
    """A known channel is read at its width, no channel at chance."""

    @pytest.mark.parametrize("shape", [(6, 5), (30,), (5, 3, 2)], ids=str)
    @pytest.mark.parametrize("error", [0.0, 0.4])
    def test_it_reads_a_class_at_the_rate_at_which_masks_tell_it(self, shape, error, seeded):
        classes = torch.randint(5, (2500,), generator=seeded(1))
        masks = carried(classes, shape, seeded(2), error)
        reading = read(masks, classes, 500, 5, steps=200)
        assert reading.low <= 1 - error <= reading.high
        assert reading.high - reading.low < 0.1
        assert (reading.masks, reading.images) == (500, 500)

    def test_it_reads_texture_wherever_it_is(self, seeded):
        classes = torch.randint(2, (1200,), generator=seeded(1))
        stripes = torch.rand(1200, 24, 1, generator=seeded(2)).round().expand(-1, -1, 24)
        masks = torch.where(classes.view(-1, 1, 1) == 1, stripes, stripes.mT).bool()
        assert read(masks, classes, 200, 2, steps=60).low > 0.9

    def test_it_reads_sizes_of_changes_however_small(self, seeded):
        classes = torch.randint(3, (1200,), generator=seeded(1))
        sizes = 1e-6 * carried(classes, (4, 4), seeded(2), 0.0)
        assert read(sizes, classes, 200, 3, steps=100).low > 0.9

    @pytest.mark.parametrize("shape", [(4, 4), (16,)], ids=str)
    def test_masks_that_tell_nothing_are_read_at_chance(self, shape, seeded):
        # a share of 95 % of 60 intervals: 51 or more with a probability of 99.9 %
        covers = 0
        for seed in range(60):
            classes = torch.randint(4, (340,), generator=seeded(2 * seed))
            masks = torch.rand(340, *shape, generator=seeded(2 * seed + 1)) < 0.5
            reading = read(masks, classes, 200, 4, seed=seed, steps=15, chance=0.25)
            covers += bool(reading.low <= 0.25 <= reading.high)
        assert covers >= stats.binom.ppf(0.001, 60, 0.95)

    def test_masks_without_any_difference_are_read_as_the_largest_class(self):
        classes = torch.tensor([0] * 60 + [1] * 40)[torch.randperm(100)]
        masks = torch.ones(100, 3, 3, dtype=torch.bool)
        same = torch.arange(100)
        reading = probe(masks, classes, masks, classes, same, n_classes=2, seed=0, steps=60)
        assert reading.accuracy == reading.chance == 0.6

    def test_the_same_seed_gives_the_same_reading_and_leaves_the_random_stream(self, seeded):
        classes = torch.randint(3, (400,), generator=seeded(1))
        masks = carried(classes, (4, 4), seeded(2), 0.5)
        torch.manual_seed(1)
        before = torch.get_rng_state()
        first = read(masks, classes, 200, 3, steps=10)
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(2)
        assert read(masks, classes, 200, 3, steps=10) == first
        others = {
            float(read(masks, classes, 200, 3, steps=10, seed=seed).accuracy) for seed in (1, 2, 3)
        }
        assert others != {float(first.accuracy)}

    def test_held_out_masks_change_nothing_in_the_training(self, seeded):
        classes = torch.randint(3, (300,), generator=seeded(1))
        masks = carried(classes, (4, 4), seeded(2), 0.3)
        single = [
            probe(
                *(masks[:200], classes[:200], masks[part], classes[part], torch.arange(50)),
                n_classes=3,
                seed=0,
                steps=20,
            ).accuracy
            for part in (slice(200, 250), slice(250, 300))
        ]
        together = read(masks, classes, 100, 3, steps=20).accuracy
        assert together == pytest.approx(sum(single) / 2)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("classes", torch.zeros(4).long()),
            ("held_out_masks", torch.zeros(3, 2, 3)),
            ("held_out_classes", torch.zeros(2).long()),
            ("groups", torch.zeros(1).long()),
            ("masks", torch.zeros(0, 2, 2)),
        ],
    )
    def test_shapes_that_do_not_fit_are_named(self, name, value):
        fitting = {
            "masks": torch.zeros(5, 2, 2),
            "classes": torch.zeros(5).long(),
            "held_out_masks": torch.zeros(3, 2, 2),
            "held_out_classes": torch.zeros(3).long(),
            "groups": torch.arange(3),
        }
        with pytest.raises(ValueError, match="give \\(n, \\*features\\), \\(n,\\)"):
            probe(**fitting | {name: value}, n_classes=2, seed=0, steps=1)


class TestInterval:
    """Exact where draws are independent, and as wide as groups make it."""

    @pytest.mark.parametrize(("hits", "n"), [(3, 20), (50, 200), (0, 15), (15, 15)])
    def test_one_draw_per_group_is_nearly_the_exact_binomial_interval(self, hits, n):
        low, high = interval(torch.arange(n) < hits, torch.arange(n))
        exact = stats.binomtest(hits, n).proportion_ci(method="exact")
        assert (low, high) == pytest.approx((exact.low, exact.high), abs=0.01)

    def test_groups_whose_draws_all_agree_count_once(self):
        once = torch.arange(40) < 12
        low, high = interval(once.repeat_interleave(10), torch.arange(40).repeat_interleave(10))
        exact = stats.binomtest(12, 40).proportion_ci(method="exact")
        # their correction for few groups makes it a little wider than that
        assert exact.low - 0.01 < low < exact.low
        assert exact.high < high < exact.high + 0.01

    def test_it_is_that_of_the_formula_calculated_by_hand(self):
        # two groups of 3 and 1: p = 1/2, z = (1/2, −1/2), v = 2/1·(1/4 + 1/4)/16 = 1/16, n* = 4
        hits, groups = torch.tensor([True, True, False, False]), torch.tensor([7, 7, 7, 2])
        effective = 4 * (stats.t.ppf(0.975, 3) / stats.t.ppf(0.975, 1)) ** 2
        low, high = interval(hits, groups)
        assert low == pytest.approx(stats.beta.ppf(0.025, effective / 2, effective / 2 + 1))
        assert high == pytest.approx(stats.beta.ppf(0.975, effective / 2 + 1, effective / 2))

    def test_the_order_of_draws_does_not_matter(self, seeded):
        hits = torch.rand(60, generator=seeded(0)) < 0.4
        groups = torch.randint(12, (60,), generator=seeded(1))
        mixed = torch.randperm(60, generator=seeded(2))
        (low, high), expected = interval(hits[mixed], groups[mixed]), interval(hits, groups)
        assert (float(low), float(high)) == pytest.approx(tuple(map(float, expected)))

    @pytest.mark.parametrize(
        ("share", "alike"), list(itertools.product([0.1, 0.5, 0.95], [0.01, 0.5, 0.95]))
    )
    def test_it_covers_however_alike_the_draws_of_an_image_are(self, share, alike):
        # beta-binomial groups of 4: `alike` is the correlation of two draws of one of them
        generator = np.random.default_rng(0)
        strength = 1 / alike - 1
        groups = torch.arange(80).repeat_interleave(4)
        covers = []
        for _ in range(300):
            own = generator.beta(share * strength, (1 - share) * strength, size=(80, 1))
            hits = torch.from_numpy(generator.random((80, 4)) < own).flatten()
            low, high = interval(hits, groups)
            covers.append(bool(low <= share <= high))
        assert sum(covers) >= stats.binom.ppf(0.001, 300, 0.95)

    def test_draws_that_agree_within_images_make_it_about_twice_as_wide(self):
        generator = np.random.default_rng(0)
        groups = torch.arange(80).repeat_interleave(4)
        for _ in range(50):
            hits = torch.from_numpy(generator.random(80) < 0.5).repeat_interleave(4)
            low, high = interval(hits, groups)
            naive_low, naive_high = interval(hits, torch.arange(320))
            assert high - low > 1.8 * (naive_high - naive_low)

    def test_a_single_image_gives_no_interval(self):
        with pytest.raises(ValueError, match="1 held-out images: give those of 2 or more"):
            interval(torch.tensor([True, False]), torch.tensor([3, 3]))


class TestMasks:
    """They are what the method does, told a class, to every image in its place."""

    @staticmethod
    def drawn(name, model, x, classes, **options):
        composition = catalogue.override(catalogue.preset(name), {"perturbation": {"p": 1.0}})
        settings = {"seed": 0, "batch_size": 4} | options
        return draw_masks(method.build(composition), model, x, classes, **settings)

    @pytest.mark.parametrize("name", ["sgt", "sgt-shared", "sgt/reversed"])
    def test_a_mask_without_chance_is_the_method_s_own_for_that_class(
        self, name, make_model, make_batch
    ):
        model, (x, _) = make_model("plain"), make_batch("plain", n=9)
        classes = torch.arange(18).view(2, 9) % 4
        clean, state = x.clone().requires_grad_(), State(forward=model)
        own = method.create(name)
        expected = [own.perturb(model, clean, told, state=state)[1].changed for told in classes]
        assert torch.equal(self.drawn(name, model, x, classes), torch.stack(expected))

    @pytest.mark.parametrize("name", ["reldrop-block", "reldrop-pixel", "random-erasing"])
    def test_every_image_is_changed_and_differently_in_every_draw(
        self, name, make_model, make_batch
    ):
        x, y = make_batch("plain", n=10)
        masks = self.drawn(name, make_model("plain"), x, y.expand(3, -1))
        assert masks.shape == (3, 10, 8, 8)
        assert masks.dtype == torch.bool
        assert masks.flatten(2).any(2).all()
        assert not torch.equal(masks[0], masks[1])

    def test_a_smooth_change_is_given_by_its_size_relative_to_the_feature(
        self, make_model, make_batch
    ):
        model, (x, y) = make_model("plain"), make_batch("plain", n=6)
        sizes = self.drawn("challenger", model, x, y.unsqueeze(0))[0]
        relevance = method.create("challenger").attribution(model, x, y).clamp_min(0)
        unit = relevance / relevance.flatten(1).amax(1).view(-1, 1, 1)
        strength = sizes.flatten(1).amax(1)
        torch.testing.assert_close(sizes, unit * strength.view(-1, 1, 1))
        assert strength.max() <= 2
        assert len(strength.unique()) == 6

    def test_a_feature_that_is_zero_has_no_relative_change(self, make_model, make_batch):
        x, y = make_batch("plain", n=3)
        x[:, :, 2] = 0
        sizes = self.drawn("challenger", make_model("plain"), x, y.unsqueeze(0))
        assert torch.isfinite(sizes).all()
        assert not sizes[:, :, 2].any()

    def test_the_model_and_the_random_stream_are_left_as_they_are(self, make_model, make_batch):
        model, (x, y) = make_model("vgg"), make_batch("vgg", n=7)
        model.eval()
        before, stream = copy.deepcopy(model.state_dict()), torch.get_rng_state()
        first, again = (self.drawn("sgt-shared", model, x, y.unsqueeze(0)) for _ in range(2))
        assert torch.equal(first, again)
        assert not model.training
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        assert torch.equal(torch.get_rng_state(), stream)
        assert not torch.equal(
            first, self.drawn("sgt-shared", model, x, y.unsqueeze(0), seed=1)
        )  # dropout and the batches' statistics

    @pytest.mark.parametrize("control", [name for name in catalogue.CONTROLS if name != "oracle"])
    def test_controls_have_masks_too(self, control, make_model, make_batch):
        x, y = make_batch("small", n=5)
        untrained = make_model("small")
        name, classes = f"reldrop-block/{control}", y.expand(2, -1)
        masks = self.drawn(name, make_model("small"), x, classes, untrained=untrained)
        assert masks.flatten(2).any(2).all()

    def test_the_oracle_keeps_the_region_of_each_image_in_its_place(
        self, make_model, make_batch, seeded
    ):
        x, y = make_batch("plain", n=9)
        region = torch.rand(9, 8, 8, generator=seeded(0)) < 0.4
        masks = self.drawn("sgt/oracle", make_model("plain"), x, y.expand(2, -1), region=region)
        assert not (masks & region).any()
        assert masks.flatten(2).sum(2).eq(32).all()

    def test_the_swapped_control_loses_the_class_that_its_method_tells(
        self, make_model, make_batch
    ):
        model, (x, _) = make_model("plain"), make_batch("plain", n=150)
        classes = torch.randint(4, (6, 150), generator=torch.Generator().manual_seed(0))
        readings = {}
        for name in ("sgt", "sgt/swapped"):
            masks = self.drawn(name, model, x, classes, batch_size=32)
            parts = [masks[:, :100], classes[:, :100], masks[:, 100:], classes[:, 100:]]
            readings[name] = probe(
                *(part.flatten(0, 1) for part in parts),
                torch.arange(50).repeat(6),
                n_classes=4,
                seed=0,
                steps=80,
                chance=0.25,
            )
        assert readings["sgt"].low > 0.5
        assert readings["sgt/swapped"].low < 0.25 < readings["sgt/swapped"].high

    def test_a_method_without_a_perturbation_has_none(self, make_model, make_batch):
        x, y = make_batch("plain")
        with pytest.raises(ValueError, match="does not perturb"):
            draw_masks(
                method.create("baseline"),
                make_model("plain"),
                x,
                y.unsqueeze(0),
                seed=0,
                batch_size=2,
            )


@pytest.fixture
def shortly(monkeypatch):
    """Return a function that shortens the training of probes."""
    return lambda steps: monkeypatch.setattr(
        leak_readings,
        "probe",
        lambda *masks, **options: probe(*masks, **options | {"steps": steps}),
    )


@pytest.fixture
def asked(monkeypatch, shortly):
    """For which model, images and classes `answer` draws masks; they are not drawn."""
    seen = []

    def instead(method, model, x, classes, **options):
        seen.append((model, x, classes))
        return torch.zeros(*classes.shape, 2)

    monkeypatch.setattr(leak_readings, "draw_masks", instead)
    shortly(1)
    return seen


class TestAnswer:
    """From a dataset to the numbers."""

    def test_on_digits_maps_that_look_at_nothing_are_read_at_chance(self, data, shortly):
        shortly(100)
        rows = answer(dataclasses.replace(QUICK, draws=4), data, CPU)
        assert [(row["explained"], row["read"]) for row in rows] == [
            ("random class", "explained class"),
            ("random class", "true class"),
            ("label", "true class"),
        ]
        for row in rows:
            assert row["chance"] == 0.1
            assert row["low"] <= 0.1 <= row["high"]
            assert row["high"] - row["low"] < 0.05
            assert (row["masks"], row["images"], row["learning_images"]) == (1440, 360, 1057)

    def test_the_same_question_has_the_same_answer(self, data, shortly):
        shortly(3)
        assert answer(QUICK, data, CPU) == answer(QUICK, data, CPU)

    def test_the_probe_learns_from_pool_images_that_the_model_has_not_seen(self, data, asked):
        answer(dataclasses.replace(QUICK, draws=3), data, CPU)
        pool, validation = read_embedded("digits").pool, read_embedded("digits").validation
        subset = read_subset(data, "digits", 0, 20, pool.y).indices
        rest = np.setdiff1d(np.arange(len(pool.y)), subset)
        statistics = read_pool(data, "digits")
        parts = [(pool.x[rest], pool.y[rest]), (validation.x, validation.y)] * 2
        for number, ((_, x, classes), part) in enumerate(zip(asked, parts, strict=True)):
            assert classes.shape == (3, len(part[1]))
            shown = ((x * statistics.deviation.item() + statistics.mean.item()) * 255).round()
            told = classes[0] if number >= 2 else classes[0] * 0
            wanted = part[1] if number >= 2 else part[1] * 0
            assert self.listed(shown.numpy(), told) == self.listed(part[0], wanted)

    @staticmethod
    def listed(images, labels):
        pairs = zip(images, labels, strict=True)
        return sorted((each.astype(np.uint8).tobytes(), int(label)) for each, label in pairs)

    def test_random_classes_do_not_depend_on_the_image(self, data, asked):
        answer(dataclasses.replace(QUICK, draws=20), data, CPU)
        (_, _, drawn), (_, _, own) = asked[::2]
        counts = np.zeros((10, 10))
        np.add.at(counts, (drawn.flatten().numpy(), own.flatten().numpy()), 1)
        assert stats.chi2_contingency(counts).pvalue > 0.001
        assert stats.chisquare(counts.sum(1)).pvalue > 0.001

    def test_the_model_is_that_of_an_experiment(self, data, tmp_path, asked):
        question = Question("reldrop-block", "digits", train_size=30, steps=3, draws=1)
        answer(question, data, CPU)
        run = question.run()
        train_shard([run], tmp_path, data, CPU)
        trained = build_model(run, CPU)
        load_weights(trained, tmp_path / "runs" / run.path / "weights.safetensors")
        found, expected = asked[0][0].state_dict(), trained.state_dict()
        assert all(torch.equal(value, expected[key]) for key, value in found.items())

    def test_one_model_can_serve_several_methods(self):
        question = dataclasses.replace(QUICK, trained_by="baseline")
        assert question.run().composition == catalogue.preset("baseline")
        assert question.composition().attribution == catalogue.preset("random-erasing").attribution

    def test_the_coin_always_says_yes(self):
        for name in catalogue.method_names():
            if catalogue.preset(name).perturbation is not None:
                assert Question(name, "digits").composition().perturbation.p == 1

    def test_a_method_without_masks_is_refused(self, data):
        with pytest.raises(ValueError, match="'baseline' changes no input"):
            answer(dataclasses.replace(QUICK, method="baseline"), data, CPU)

    @pytest.mark.parametrize("size", [9, 1068])
    def test_the_probe_needs_images_of_its_own(self, data, size):
        with pytest.raises(ValueError, match=f"train size {size} .* give 10 to 1067"):
            answer(dataclasses.replace(QUICK, train_size=size), data, CPU)


class TestWords:
    """Numbers and sentences for a reader."""

    @staticmethod
    def rows(method="reldrop-block", **changes):
        row = {
            "dataset": "digits",
            "model": "m",
            "method": method,
            "train_size": 200,
            "seed": 0,
            "steps": 300,
            "trained_by": method,
            "draws": 8,
            "seen": "which features are changed",
            "accuracy": 0.5,
            "low": 0.4,
            "high": 0.62,
            "chance": 0.1,
            "images": 360,
            "learning_images": 877,
        }
        return [
            row | {"explained": explained, "read": read} | changes
            for explained, read in leak.READINGS
        ]

    def test_a_channel_is_called_one(self):
        given, image, label = sentences(self.rows())
        for each in (given, image, label):
            assert "50.0 %, chance is 10.0 %" in each
        assert "masks tell the explained class" in given
        assert "no leak of the label" in image
        assert "masks tell the true class: " in label

    def test_what_was_not_found_has_a_bound(self):
        for each in sentences(self.rows(accuracy=0.11, low=0.1, high=0.123)):
            assert each.startswith("no leak found at this precision")
            assert "at most 2.3 points above chance" in each

    def test_a_bound_is_never_negative(self):
        said = sentences(self.rows(accuracy=0.05, low=0.02, high=0.08))
        assert all("at most 0.0 points" in each for each in said)

    @pytest.mark.parametrize(
        ("name", "note"),
        [
            ("random-erasing", "look at nothing"),
            ("sgt/uniform", "look at nothing"),
            ("sgt/random-class", "draws itself"),
        ],
    )
    def test_methods_that_do_not_explain_what_they_are_told_have_a_note(self, name, note):
        *_, last = sentences(self.rows(name))
        assert last.startswith(f"note: the maps of {name}" if "look" in note else f"note: {name}")
        assert note in last
        assert len(sentences(self.rows("sgt"))) == 3

    def test_the_table_has_a_line_per_number(self):
        lines = table(self.rows()).splitlines()
        assert sum("40.0 … 62.0 %" in line for line in lines) == 3
        assert any("360 of the validation split, 8 masks of each" in line for line in lines)
        assert len({line.index("…") for line in lines if "…" in line}) == 1
