"""What is measured of maps: against plain loops over features, and models that are known."""

import math

import numpy as np
import pytest
import torch
from experiments import planned, prepare_data
from small_evaluation import (
    CPU,
    LITTLE,
    constant,
    linear,
    looking_at,
    shrink,
    subject_of,
)

from attrreg.columns import KEYS, TABLES
from attrreg.data.prepare import prepare
from attrreg.evaluation.map_measures import CHANCE, RADIUS, dropped, erased, sensitive
from attrreg.evaluation.predict import predict
from attrreg.evaluation.saliency import SALIENCIES
from attrreg.evaluation.subject import HeldOut
from attrreg.protocol import Evaluation

RUNS = {(run.method, run.seed): run for run in planned({"grid.methods": ["baseline", "sgt"]}).runs}
RUN = RUNS["baseline", 0]
SHARES = (0.01, 0.05, 0.1, 0.2, 0.5)  # of the features, in the definition of erasure
COUNTS = (1, 3, 6, 13, 32)  # what these are of 64 features
KINDS = {"images": (1, 8, 8), "images in colour": (3, 8, 8), "series": (2, 64)}
FULL = {"profile": "full", "fractions": (0.0, 0.25, 0.5)}
PIXEL = 27


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def held_out(data):
    return HeldOut.on(CPU, data, RUN.source)


@pytest.fixture(scope="module")
def fitted(held_out):
    """A linear model that is right about most test samples."""
    x, y = held_out.splits["test"]
    wanted = torch.nn.functional.one_hot(y[:200], 10).double()
    weight = torch.linalg.lstsq(x[:200].flatten(1).double(), wanted, driver="gelsd").solution
    noise = 0.01 * torch.randn(10, 64, generator=seeded())  # so that no two features are alike
    return linear(6 * (weight.T.float() + noise))


def numbers(found):
    """Return the metrics as plain numbers."""
    return {name: float(value) for name, value in found[0].items()}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def reading(kind, n=300, pixel=PIXEL):
    """Return a model that reads one feature of the last channel, samples, and their labels.

    The label is the sign of that feature. The first feature of its channel has the other sign, that
    of all other channels has the same.
    """
    shape = KINDS[kind]
    x = (0.5 + torch.rand((n, *shape), generator=seeded())).flatten(2)
    y = torch.randint(0, 2, (n,), generator=seeded(1))
    sign = (2.0 * y - 1)[:, None]
    x[:, :, 0] *= sign
    x[:, -1, 0] *= -1
    x[:, -1, PIXEL] = sign[:, 0]
    place = (shape[0] - 1) * 64 + pixel
    weight = torch.zeros(2, shape[0] * 64)
    weight[:, place] = torch.tensor([-1.0, 1.0]) * (1 if pixel else -1)
    model = linear(weight)
    x = x.reshape(n, *shape)
    assert torch.equal(model(x).argmax(1), y)
    return model, x, y


def erasing(sample, values, count, filled, kept=False):
    """Return a sample (channels, …) without its features of largest value, or with these alone."""
    order = sorted(range(values.numel()), key=lambda place: -float(values.flatten()[place]))
    flat, other = sample.flatten(1).clone(), filled.expand_as(sample).flatten(1)
    for place in order[count:] if kept else order[:count]:
        flat[:, place] = other[:, place]
    return flat.view(sample.shape)


def right(model, x, y):
    return float((model(x).argmax(1) == y).double().mean())


def mean_height(values, fractions):
    """Return the mean height of a curve, by trapezoids."""
    return np.trapezoid(values, fractions) / np.ptp(fractions)


class TestDropped:
    """Accuracy lost as saliency guided training is judged."""

    @pytest.mark.parametrize("kind", KINDS)
    def test_every_saliency_finds_the_only_feature_that_is_read(self, data, kind):
        """The first feature of its own channel takes its place, and says the opposite."""
        model, *samples = reading(kind)
        found = numbers(dropped(looking_at(subject_of(data, RUN, model, **FULL), *samples)))
        assert found.keys() == {f"accuracy-drop-{name}" for name in SALIENCIES}
        by_chance = found.pop("accuracy-drop-random")
        # in all it loses 1 − (0.5 · 0.25) / 0.5
        assert found == pytest.approx(dict.fromkeys(found, 0.75 - by_chance))
        assert by_chance == pytest.approx(0.25, abs=0.05)  # it goes as often as any feature

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_model_that_reads_the_first_feature_loses_nothing(self, data, kind):
        model, *samples = reading(kind, pixel=0)
        found = numbers(dropped(looking_at(subject_of(data, RUN, model, **FULL), *samples)))
        assert found == dict.fromkeys(found, 0)

    def test_a_constant_model_loses_nothing(self, data, held_out):
        metrics, tables = dropped(subject_of(data, RUN, constant([1.0, *[0.0] * 9]), **FULL))
        assert set(map(float, metrics.values())) == {0}
        share = float((held_out.splits["test"][1] == 0).double().mean())
        curves = [row["accuracy"] for row in tables["accuracy_drop"]]
        assert curves == pytest.approx([share] * len(SALIENCIES) * 3)

    def test_a_map_that_tells_nothing_loses_nothing_however_fragile_the_model(self, data):
        """All features count alike, so that equal gradients leave their order to chance."""
        x = 1 + 0.2 * torch.randn(400, 1, 8, 8, generator=seeded())
        x[:, 0, 0, 0] *= -1
        y = (x.sum((1, 2, 3)) > x.sum((1, 2, 3)).median()).long()
        weight = torch.stack([-torch.ones(64), torch.ones(64)])
        model = linear(weight, torch.tensor([1.0, -1.0]) * x.sum((1, 2, 3)).median())
        found = numbers(dropped(looking_at(subject_of(data, RUN, model, **FULL), x, y)))
        assert found["accuracy-drop-random"] > 0.3
        assert abs(found["accuracy-drop-gradient"]) < 0.05

    def test_a_linear_model_loses_what_a_plain_loop_takes_away_beyond_chance(self, data, fitted):
        fractions = (0.0, 0.2, 0.3, 0.7)
        subject = subject_of(data, RUN, fitted, fractions=fractions, samples=60)
        metrics, tables = dropped(subject)
        x, y = subject.sampled()
        weight = fitted[1].weight.detach()[fitted(x).argmax(1)].view(x.shape)
        background = subject.held_out.splits["validation"][0][:32]
        maps = {
            "gradient": weight.abs(),
            "smoothgrad-squared": weight.square(),
            "integrated-gradients": (x * weight).abs(),
            "deeplift": (x * weight).abs(),
            "deep-shap": ((x - background.mean(0)) * weight).abs(),
        }
        random = [row for row in tables["accuracy_drop"] if row["map"] == "random"]
        assert [row["fraction"] for row in random] == list(fractions)
        by_chance = mean_height([row["accuracy"] for row in random], fractions)
        clean = right(fitted, x, y)
        assert float(metrics["accuracy-drop-random"]) == pytest.approx(clean - by_chance)
        for name, values in maps.items():
            curve = []
            for share in fractions:
                erased_x = [
                    erasing(sample, each, round(share * 64), sample[:, :1, :1])
                    for sample, each in zip(x, values[:, 0], strict=True)
                ]
                curve.append(right(fitted, torch.stack(erased_x), y))
            rows = [row for row in tables["accuracy_drop"] if row["map"] == name]
            assert [row["fraction"] for row in rows] == list(fractions)
            assert [row["accuracy"] for row in rows] == pytest.approx(curve, abs=1e-9), name
            expected = by_chance - mean_height(curve, fractions)
            assert float(metrics[f"accuracy-drop-{name}"]) == pytest.approx(expected), name
            assert clean - mean_height(curve, fractions) > 0.1

    def test_a_saliency_that_a_model_does_not_have_is_left_out_and_the_log_says_why(
        self, data, caplog
    ):
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            *(torch.nn.Flatten(), torch.nn.Linear(64, 16), torch.nn.LayerNorm(16)),
            torch.nn.Linear(16, 10),
        )
        metrics, tables = dropped(subject_of(data, RUN, model))
        found = numbers((metrics, tables))
        missing = {"deeplift", "deep-shap"}
        made = set(SALIENCIES) - missing
        assert found.keys() == {f"accuracy-drop-{name}" for name in made}
        assert all(math.isfinite(value) for value in found.values())
        assert {row["map"] for row in tables["accuracy_drop"]} == made
        assert len(caplog.records) == len(missing)
        for name, record in zip(("deeplift", "deep-shap"), caplog.records, strict=True):
            begin = f"{RUN.name}: no accuracy drop by {name}: "
            assert record.getMessage().startswith(begin)
            assert len(record.getMessage()) > len(begin)

    def test_the_maps_of_the_protocol_change_nothing(self, data, fitted):
        """It is judged by all its saliencies, whatever else is measured."""
        some = [
            numbers(dropped(subject_of(data, RUN, fitted, maps=maps)))
            for maps in ((), ("lrp-0",), ("gradient", "random"))
        ]
        assert some[0] == some[1] == some[2]

    def test_methods_of_one_seed_share_every_random_number(self, data, fitted):
        found = {
            key: numbers(dropped(subject_of(data, run, fitted, samples=100)))
            for key, run in RUNS.items()
        }
        assert found["baseline", 0] == found["sgt", 0]
        assert found["baseline", 0] != found["baseline", 1]


class TestErased:
    """Comprehensiveness and sufficiency, beyond chance, as shares of what there is to lose."""

    @staticmethod
    def sure(kind, n=300):
        """Return a model that is sure of class 1 by one feature, samples, and that probability."""
        model, x, _ = reading(kind, n)
        x.flatten(2)[:, -1, PIXEL] = 1.0
        with torch.no_grad():
            model[1].weight[0].zero_()
            model[1].weight[1].mul_(3)
        return model, x, 1 / (1 + math.exp(-3))

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_map_that_finds_the_only_feature_that_is_read(self, data, kind):
        model, x, whole = self.sure(kind)
        settings = FULL | {"fill": "zero", "maps": ("gradient", "lrp-0")}
        subject = looking_at(subject_of(data, RUN, model, **settings), x, torch.ones(300).long())
        metrics, tables = erased(subject)
        share = sum(COUNTS) / len(COUNTS) / 64  # of how often chance takes it
        for row in tables["erasure"]:
            is_without = row["score"] == "comprehensiveness"
            assert row["empty"] == pytest.approx(whole - 0.5)
            assert row["value"] == pytest.approx((whole - 0.5) * is_without, abs=1e-6)
            by_chance = (share if is_without else 1 - share) * (whole - 0.5)
            assert row["chance"] == pytest.approx(by_chance, abs=0.02)
            relative = (row["value"] - row["chance"]) / row["empty"]
            assert row["relative"] == pytest.approx(relative)
            assert float(metrics[f"{row['score']}-{row['map']}"]) == pytest.approx(relative)
        assert float(metrics["comprehensiveness-gradient"]) == pytest.approx(1 - share, abs=0.04)
        assert float(metrics["sufficiency-gradient"]) == pytest.approx(share - 1, abs=0.04)

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_random_map_is_better_than_chance_only_by_chance(self, data, kind):
        model, x, _ = self.sure(kind, 600)
        settings = FULL | {"fill": "zero", "maps": ("random", "gradient")}
        subject = looking_at(subject_of(data, RUN, model, **settings), x, torch.ones(600).long())
        found = numbers(erased(subject))
        for score in ("comprehensiveness", "sufficiency"):
            assert abs(found[f"{score}-random"]) < 0.05
            assert abs(found[f"{score}-gradient"]) > 0.7

    @pytest.mark.parametrize("fill", ["zero", "blur"])
    def test_losses_are_those_of_a_plain_loop_whatever_the_fill(self, data, fitted, fill):
        subject = subject_of(data, RUN, fitted, samples=40, fill=fill, maps=("lrp-0",))
        rows = {row["score"]: row for row in erased(subject)[1]["erasure"]}
        x, _ = subject.sampled()
        explained = fitted(x).argmax(1)
        filled = torch.tensor(0.0)

        def probability(samples):
            chances = fitted(samples).double().softmax(1)
            return float(chances[range(len(x)), explained].mean().detach())

        maps = x[:, 0] * fitted[1].weight.detach()[explained].view(-1, 8, 8)
        for score, kept in (("comprehensiveness", False), ("sufficiency", True)):
            left = [
                probability(
                    torch.stack(
                        [
                            erasing(sample, each, count, filled, kept)
                            for sample, each in zip(x, maps, strict=True)
                        ]
                    )
                )
                for count in COUNTS
            ]
            expected = probability(x) - sum(left) / len(left)
            assert rows[score]["value"] == pytest.approx(expected, abs=1e-6), score
            empty = probability(x) - probability(filled.expand_as(x))
            assert rows[score]["empty"] == pytest.approx(empty, abs=1e-6)

    def test_features_are_emptied_by_the_mean_of_the_pool(self, held_out):
        pool = held_out.normalised(torch.tensor(held_out.pool.images.x))
        assert float(pool.double().mean()) == pytest.approx(0, abs=1e-6)

    @pytest.mark.parametrize("fill", ["noise", "blur", "other"])
    def test_the_fill_of_the_protocol_changes_nothing(self, data, fitted, fill):
        one, two = (
            erased(subject_of(data, RUN, fitted, samples=40, fill=each, maps=("gradient",)))
            for each in ("zero", fill)
        )
        assert numbers(one) == numbers(two)
        assert one[1] == two[1]

    def test_two_maps_that_are_the_same_score_the_same(self, data, fitted):
        """Those of a linear model; without any feature all maps lose the same."""
        maps = ("gradient-x-input", "lrp-0", "gradient", "random")
        subject = subject_of(data, RUN, fitted, samples=40, maps=maps)
        rows = erased(subject)[1]["erasure"]
        assert len(rows) == 2 * len(maps)
        assert len({row["empty"] for row in rows}) == 1
        one, two = ([row for row in rows if row["map"] == name] for name in maps[:2])
        for first, second in zip(one, two, strict=True):
            assert first | {"map": ""} == pytest.approx(second | {"map": ""})
        assert len({row["value"] for row in rows}) > 2

    def test_chance_is_that_of_some_random_maps_whatever_the_maps(self, data, fitted):
        assert CHANCE >= 2
        chances = [
            {row["score"]: row["chance"] for row in erased(subject)[1]["erasure"]}
            for subject in (
                subject_of(data, RUN, fitted, maps=maps)
                for maps in (("gradient",), ("lrp-0", "gradient"), ("random",))
            )
        ]
        assert chances[0] == chances[1] == chances[2]

    def test_where_there_is_nothing_to_lose_it_is_not_defined(self, data):
        subject = subject_of(data, RUN, constant(torch.linspace(1, 0, 10)), fill="zero")
        metrics, tables = erased(subject)
        assert len(metrics) == 2 * len(subject.settings.maps)
        assert all(math.isnan(value) for value in metrics.values())
        for row in tables["erasure"]:
            assert row["value"] == row["chance"] == row["empty"] == 0
            assert math.isnan(row["relative"])

    def test_without_maps_nothing_is_measured(self, data, fitted):
        assert erased(subject_of(data, RUN, fitted, maps=())) == ({}, {})
        assert erased(subject_of(data, RUN, fitted))[0]


class TestSensitive:
    """How far maps move while inputs move a little."""

    def test_the_gradient_of_a_linear_model_does_not_move(self, data, fitted):
        found = numbers(sensitive(subject_of(data, RUN, fitted, maps=("gradient",))))
        assert found == {"max-sensitivity-gradient": pytest.approx(0, abs=1e-6)}

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_product_with_the_input_moves_as_the_input_does(self, data, kind):
        """By R(x + δ) − R(x) = w · δ, whose size in a cube is nearly the same for all δ."""
        shape = KINDS[kind]
        size = math.prod(shape)
        scale = torch.linspace(1, 3, shape[0]).view(-1, *[1] * (len(shape) - 1))
        x = scale * torch.randn((50, *shape), generator=seeded())
        weight = torch.randn(2, size, generator=seeded(1))
        model = linear(weight)
        settings = FULL | {"maps": ("lrp-0",)}
        subject = looking_at(subject_of(data, RUN, model, **settings), x, torch.ones(50))
        [found] = numbers(sensitive(subject)).values()
        low, high = map(torch.tensor, subject.held_out.bounds)
        radius = RADIUS * float((high - low).mean())
        chosen = weight[model(x).argmax(1)].view(-1, shape[0], 64)
        flat = x.view(50, shape[0], 64)
        largest = torch.zeros(50)
        for seed in range(10):  # of maps on the features, where channels are summed
            moved = radius * (2 * torch.rand(flat.shape, generator=seeded(seed)) - 1)
            ratio = (moved * chosen).sum(1).norm(dim=1) / (flat * chosen).sum(1).norm(dim=1)
            largest = torch.maximum(largest, ratio)
        assert found == pytest.approx(float(largest.mean()), rel=0.05)

    def test_a_map_of_random_numbers_is_held(self, data, fitted):
        maps = ("random", "smoothgrad-squared")
        found = numbers(sensitive(subject_of(data, RUN, fitted, maps=maps)))
        assert found["max-sensitivity-random"] == 0
        assert found["max-sensitivity-smoothgrad-squared"] == pytest.approx(0, abs=1e-5)

    @pytest.mark.parametrize("name", ["gradient", "integrated-gradients", "lrp-0"])
    def test_the_class_that_is_explained_stays_though_the_prediction_moves(self, data, name):
        first = torch.randn(64, generator=seeded())
        weight = torch.stack([first, -3 * first])
        x = torch.randn(40, 64, generator=seeded(1))
        x = x - (x @ first)[:, None] * first / first.square().sum() + 1e-4 * first
        model, x = linear(weight), x.view(-1, 1, 8, 8)
        settings = FULL | {"maps": (name,)}
        subject = looking_at(subject_of(data, RUN, model, **settings), x, torch.zeros(40))
        assert set(model(x).argmax(1).tolist()) == {0}
        radius = RADIUS * float(x.max() - x.min())
        shaken = x + radius * (2 * torch.rand(x.shape, generator=seeded(2)) - 1)
        assert 0.2 < model(shaken).argmax(1).double().mean() < 0.8
        [found] = numbers(sensitive(subject)).values()
        assert found < 0.2  # with the other class it would be 2 or more

    def test_a_constant_model_has_no_sensitivity(self, data):
        model = constant(torch.linspace(1, 0, 10))
        found = numbers(sensitive(subject_of(data, RUN, model, maps=("gradient", "lrp-0"))))
        assert len(found) == 2
        assert all(math.isnan(value) for value in found.values())

    def test_a_model_that_bends_more_is_more_sensitive(self, data):
        torch.manual_seed(0)
        soft, hard = (
            torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 32), bend(), each)
            for bend, each in ((torch.nn.Softplus, torch.nn.Linear(32, 10)),) * 2
        )
        hard.load_state_dict(soft.state_dict())
        with torch.no_grad():
            hard[1].weight.mul_(20)
        values = [
            numbers(sensitive(subject_of(data, RUN, model, maps=("gradient",))))
            for model in (soft, hard)
        ]
        one, two = (each["max-sensitivity-gradient"] for each in values)
        assert 0 < 2 * one < two

    def test_without_maps_nothing_is_measured(self, data, fitted):
        assert sensitive(subject_of(data, RUN, fitted, maps=())) == ({}, {})


@pytest.mark.parametrize(
    ("measure", "name", "table"),
    [
        (dropped, "accuracy-drop", "accuracy_drop"),
        (erased, "erasure", "erasure"),
        (sensitive, "sensitivity", None),
    ],
)
def test_series_give_what_the_protocol_names_and_rows_of_the_table(
    measure, name, table, tmp_path, monkeypatch
):
    shrink(monkeypatch)
    prepare(tmp_path, "shapes-series")
    changes = {"grid.datasets": ["shapes-series"], "grid.models": ["cnn-series"]}
    [run, *_] = planned(changes).runs
    subject = subject_of(tmp_path, run, samples=6, measures=(name,), maps=("gradient", "random"))
    assert subject.sampled()[0].ndim == 3
    metrics, tables = measure(subject)
    without = Evaluation(**(LITTLE | {"measures": ()})).metrics()
    assert set(metrics) == set(subject.settings.metrics()) - set(without)
    assert all(math.isfinite(value) for value in numbers((metrics, {})).values())
    assert set(tables) == ({table} if table else set())
    for row in tables.get(table, []):
        assert list(row) == [each for each in TABLES[table] if each not in KEYS]
    if measure is dropped:
        x, y = subject.sampled()
        maps = subject.maps("gradient", x)
        gone = [
            erasing(sample, each, round(0.5 * each.numel()), sample[:, :1])
            for sample, each in zip(x, maps, strict=True)
        ]
        expected = right(lambda each: predict(subject.model, each), torch.stack(gone), y)
        last = [row for row in tables[table] if row["map"] == "gradient"][-1]
        assert last["accuracy"] == pytest.approx(expected)
