"""Precision: bfloat16 where it is asked for, and nowhere else."""

import csv
import dataclasses

import pytest
import torch
from experiments import planned, prepare_data
from safetensors.torch import load_file
from small_training import (
    CPU,
    Watched,
    assert_same_weights,
    network,
    snapshot,
    streams,
    training_set,
)

from attrreg import method
from attrreg.machine import choose_precision, use_deterministic
from attrreg.method import Method
from attrreg.objective import Consistency, CrossEntropy, Mixture
from attrreg.recipe import SGD, AdamW, Augmentation, Recipe, Selection
from attrreg.records import read_record
from attrreg.state import State
from attrreg.training import runs as training_runs
from attrreg.training.engine import Training
from attrreg.training.runs import train_shard

GPU = torch.device("cuda")
RECIPE = Recipe(
    steps=6,
    batch_size=8,
    optimizer=SGD(learning_rate=0.02),
    augmentation=Augmentation(crop_padding=1, flip=True),
)
MAPPED = ["reldrop-block", "reldrop-pixel", "sgt", "challenger"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare_data(tmp_path_factory.mktemp("data"), seeds=[0])


def training_of(name, precision, recipe=RECIPE, **others):
    chosen = method.create(name) if isinstance(name, str) else name
    return Training(network(), chosen, training_set(), recipe, streams(), precision, **others)


class MapSpy:
    """An attribution that remembers its maps, and the model, inputs and labels they are of."""

    def __init__(self, part):
        self.part, self.seen = part, []
        self.forward_pass = getattr(part, "forward_pass", "")

    def __call__(self, model, x, y, state):
        before = snapshot(model)
        found = self.part(model, x, y, state)
        self.seen.append((found, before, x.detach().clone(), y.clone()))
        return found


def spied(name):
    """Return a method, and the spy in place of its attribution."""
    chosen = method.create(name)
    spy = MapSpy(chosen.attribution)
    return dataclasses.replace(chosen, attribution=spy), spy


def again(spy, place):
    """Make a map anew in float32, outside of any training."""
    _, weights, x, y = spy.seen[place]
    model = network()
    model.load_state_dict(weights)
    return spy.part(model.train(), x, y, State())


def correlation(one, two):
    return float(torch.corrcoef(torch.stack([one.flatten(), two.flatten()]))[0, 1])


class TestChoice:
    """What a name of the recipe means on a device."""

    @pytest.mark.parametrize("name", ["float32", "tf32", "bfloat16"])
    @pytest.mark.parametrize("device", [CPU, GPU], ids=str)
    def test_what_is_asked_for_is_what_is_done(self, name, device, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
        assert choose_precision(name, device) == name

    @pytest.mark.parametrize(
        ("device", "has_it", "expected"),
        [(CPU, True, "float32"), (GPU, True, "bfloat16"), (GPU, False, "float32")],
    )
    def test_auto_is_mixed_on_gpus_that_have_it(self, device, has_it, expected, monkeypatch):
        asked = []

        def supported(including_emulation=True):
            asked.append(including_emulation)
            return has_it

        monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
        assert choose_precision("auto", device) == expected
        assert asked in ([], [False])  # one that only emulates it does not have it

    def test_an_unknown_name_is_refused(self):
        with pytest.raises(KeyError):
            choose_precision("half", CPU)
        with pytest.raises(ValueError, match="precision"):
            Recipe(steps=1, precision="half")

    @pytest.mark.parametrize(
        ("precision", "rounds"), [("float32", False), ("bfloat16", False), ("tf32", True)]
    )
    def test_factors_are_rounded_where_tf32_is_asked_for(self, precision, rounds):
        matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
        before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
        was_deterministic = torch.are_deterministic_algorithms_enabled()
        try:
            use_deterministic(True, precision)
            assert (matmul.allow_tf32, cudnn.allow_tf32) == (rounds, rounds)
            assert torch.are_deterministic_algorithms_enabled()
            assert not cudnn.benchmark
        finally:
            matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before
            torch.use_deterministic_algorithms(was_deterministic)


class TestMixed:
    """Passes are in bfloat16; weights, gradients and statistics are not."""

    @pytest.mark.parametrize("name", ["baseline", "sgt", "sgt-shared", "reldrop-block"])
    @pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
    def test_the_passes_that_are_trained_on(self, name, precision):
        training, seen = training_of(name, precision), []

        def look(module, inputs, logits):
            if module.training:  # maps are made in evaluation mode
                seen.append((torch.is_autocast_enabled("cpu"), logits.dtype))

        training.model.register_forward_hook(look)
        training.run()
        mixed = precision == "bfloat16"
        assert set(seen) == {(mixed, torch.bfloat16 if mixed else torch.float32)}
        assert len(seen) == RECIPE.steps * (2 if name.startswith("sgt") else 1)

    @pytest.mark.parametrize("optimizer", [SGD(), AdamW()], ids=lambda each: each.name)
    def test_what_is_kept_is_in_float32(self, optimizer):
        dtypes = set()

        def look(optimizer, *_):
            dtypes.update(
                each.grad.dtype for group in optimizer.param_groups for each in group["params"]
            )

        training = training_of(
            "sgt", "bfloat16", RECIPE.model_copy(update={"optimizer": optimizer})
        )
        training.optimizer.register_step_pre_hook(look)
        training.run()
        floating = [
            each for each in training.model.state_dict().values() if each.is_floating_point()
        ]
        states = [
            value
            for state in training.optimizer.state.values()
            for value in state.values()
            if isinstance(value, torch.Tensor)
        ]
        assert states
        dtypes |= {each.dtype for each in [*floating, *states, *training.sums.values()]}
        assert dtypes == {torch.float32}
        assert not torch.is_autocast_enabled("cpu")

    @pytest.mark.parametrize("name", ["baseline", "sgt", "sgt-shared", "reldrop-block"])
    def test_the_loss_is_close_to_that_in_float32_but_not_the_same(self, name):
        histories = []
        for precision in ("float32", "bfloat16"):
            training = training_of(name, precision)
            training.run()
            histories.append([row["loss"] for row in training.history])
        assert histories[1] == pytest.approx(histories[0], rel=0.02)
        assert histories[1] != histories[0]

    @pytest.mark.parametrize("name", ["baseline", "sgt", "sgt-shared", "reldrop-block"])
    def test_it_is_reproducible_to_the_bit(self, name):
        ends = []
        for _ in range(2):
            training = training_of(name, "bfloat16")
            training.run()
            ends.append((snapshot(training.model), training.history))
        assert_same_weights(ends[0][0], ends[1][0])
        assert ends[0][1] == ends[1][1]

    def test_tf32_is_float32_on_a_cpu(self):
        ends = []
        for precision in ("float32", "tf32"):
            training = training_of("sgt", precision)
            training.run()
            ends.append((snapshot(training.model), training.history))
        assert_same_weights(ends[0][0], ends[1][0])
        assert ends[0][1] == ends[1][1]

    def test_what_is_held_back_is_read_as_it_is_trained(self):
        recipe = RECIPE.model_copy(update={"selection": Selection(name="best", every=1)})
        trained_on, held_back = training_set().split(16)
        seen = set()
        for precision in ("float32", "bfloat16"):
            training = Training(
                network(), Method(), trained_on, recipe, streams(), precision, held_back
            )
            training.model.register_forward_hook(
                lambda module, inputs, logits, precision=precision: seen.add(
                    (precision, module.training, logits.dtype)
                )
            )
            training.run()
        assert seen == {
            (precision, mode, getattr(torch, precision))
            for precision in ("float32", "bfloat16")
            for mode in (True, False)
        }

    @pytest.mark.parametrize(
        "objective",
        [CrossEntropy(), CrossEntropy(label_smoothing=0.1), Mixture(), Consistency()],
        ids=lambda each: f"{each.name} {getattr(each, 'label_smoothing', '')}",
    )
    def test_losses_are_made_of_the_logits_in_float32(self, objective):
        """A logarithm of a probability in bfloat16 is off by more than a divergence is large."""
        generator = torch.Generator().manual_seed(0)
        clean = (5 * torch.randn(64, 10, generator=generator)).bfloat16()
        shift = 0.02 * torch.randn(64, 10, generator=generator)
        perturbed, y = (clean.float() + shift).bfloat16(), torch.arange(64) % 10

        def forward(logits):
            return logits

        with torch.autocast("cpu", torch.bfloat16):
            found = objective(forward, clean, perturbed, y)
        expected = objective(forward, clean.float(), perturbed.float(), y)
        assert found.total.dtype == torch.float32
        torch.testing.assert_close(found.total, expected.total)
        assert found.parts.keys() == expected.parts.keys()
        for name, value in expected.parts.items():
            torch.testing.assert_close(found.parts[name], value, rtol=1e-4, atol=1e-7)
        assert found.parts.get("divergence", 0) >= 0


class TestMaps:
    """Maps are made in float32, whatever the passes are in."""

    @pytest.mark.parametrize("name", MAPPED)
    def test_they_are_those_of_the_weights_in_float32(self, name):
        chosen, spy = spied(name)
        training_of(chosen, "bfloat16").run()
        assert len(spy.seen) == RECIPE.steps
        for place, (found, *_) in enumerate(spy.seen):
            expected = again(spy, place)
            assert found.dtype == expected.dtype == torch.float32
            assert correlation(found, expected) >= 0.99
            assert torch.equal(found, expected)

    @pytest.mark.parametrize("name", MAPPED)
    def test_the_first_ones_are_those_of_a_training_in_float32(self, name):
        (mixed, in_bfloat16), (plain, in_float32) = spied(name), spied(name)
        training_of(mixed, "bfloat16").run()
        training_of(plain, "float32").run()
        assert torch.equal(in_bfloat16.seen[0][0], in_float32.seen[0][0])

    def test_a_map_of_the_training_pass_is_as_precise_as_that_pass(self):
        (mixed, in_bfloat16), (plain, in_float32) = spied("sgt-shared"), spied("sgt-shared")
        training_of(mixed, "bfloat16").run()
        training_of(plain, "float32").run()
        found, expected = in_bfloat16.seen[0][0], in_float32.seen[0][0]
        assert found.dtype == torch.float32
        assert correlation(found, expected) >= 0.99
        assert not torch.equal(found, expected)


class TestRecord:
    """The precision is written down, and another one is another run."""

    @staticmethod
    def run_of(precision):
        changes = {"grid.methods": ["baseline", "sgt"], "recipe.precision": precision}
        return next(run for run in planned(changes).runs if run.method == "sgt")

    def test_what_was_done_is_said(self, data, tmp_path):
        records, losses = {}, {}
        for name in ("auto", "float32", "tf32", "bfloat16"):
            run = self.run_of(name)
            train_shard([run], tmp_path / name, data, CPU)
            place = tmp_path / name / "runs" / run.path
            records[name] = read_record(place)
            weights = load_file(place / "weights.safetensors").values()
            assert torch.bfloat16 not in {each.dtype for each in weights}
            with (place / "history.csv").open() as file:
                losses[name] = [row["loss"] for row in csv.DictReader(file)]
        assert {name: each["precision"] for name, each in records.items()} == {
            "auto": "float32",
            "float32": "float32",
            "tf32": "tf32",
            "bfloat16": "bfloat16",
        }
        assert {name: each["recipe"]["precision"] for name, each in records.items()} == {
            name: name for name in records
        }
        assert len({each["digest"] for each in records.values()}) == 4
        assert losses["auto"] == losses["float32"] == losses["tf32"] != losses["bfloat16"]

    def test_what_auto_turned_out_to_be_changes_the_digest(self, data, tmp_path, monkeypatch):
        run = self.run_of("auto")
        assert train_shard([run], tmp_path, data, CPU)[run] == "made"
        assert train_shard([run], tmp_path, data, CPU)[run] == "kept"
        monkeypatch.setattr(training_runs, "choose_precision", lambda name, device: "bfloat16")
        assert train_shard([run], tmp_path, data, CPU)[run] == "made"
        assert read_record(tmp_path / "runs" / run.path)["precision"] == "bfloat16"


def test_a_method_may_look_at_what_it_gets_in_any_precision():
    """Inputs, labels and regions are the same; only what is computed of them is not."""
    seen = {"float32": [], "bfloat16": []}
    for precision, given in seen.items():
        look = Watched(
            Method(),
            lambda model, x, y, generator, state, to=given: to.append((x, y, state.region)),
        )
        training_of(look, precision).run()
    for one, two in zip(*seen.values(), strict=True):
        assert all(map(torch.equal, one, two))
        assert one[0].dtype == two[0].dtype == torch.float32
