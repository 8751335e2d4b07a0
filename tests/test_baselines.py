"""Two common regularisers without a map: smoothed labels, and dropout before the last layer."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn
from torch.nn import functional as F

from attrreg import method, models
from attrreg.objective import CrossEntropy
from attrreg.state import SharedPass


def logits_and_labels(seed=0, n=6, classes=5):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, classes, generator=generator, dtype=torch.float64).requires_grad_()
    return logits, torch.randint(0, classes, (n,), generator=generator)


def wide():
    """Return a network that passes ones to its last layer, which adds them up."""
    model = nn.Sequential(nn.Linear(3, 2000), nn.ReLU(), nn.Linear(2000, 2, bias=False))
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.fill_(1)
        model[2].weight.fill_(1)
    return model


def hooks(model):
    """Return all hooks of all modules."""
    return [
        hook
        for module in model.modules()
        for each in (module._forward_pre_hooks, module._forward_hooks, module._backward_hooks)
        for hook in each
    ]


def dropped(model, share, x, y=None):
    """Return what the last layer was given, of two batches under the dropout of an objective."""
    seen = []
    last = [each for each in model.modules() if isinstance(each, nn.Linear)][-1]
    hook = last.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    y = torch.zeros(len(x), dtype=torch.int64) if y is None else y
    CrossEntropy(dropout=share)(SharedPass(model, x), x, None, y)
    hook.remove()
    return seen[0]


class TestLabelSmoothing:
    """Cross-entropy with (1 − ε) at the label and ε spread over all classes."""

    @settings(deadline=None, max_examples=40)
    @given(st.floats(0, 0.99), st.integers(0, 99))
    def test_it_is_the_formula_and_that_of_torch(self, share, seed):
        logits, y = logits_and_labels(seed)
        found = CrossEntropy(label_smoothing=share)(lambda x: x, logits, None, y).total
        target = torch.full_like(logits, share / 5)
        target[range(6), y] += 1 - share
        logarithms = logits - logits.exp().sum(1, keepdim=True).log()
        expected = -(target * logarithms).sum(1).mean()
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(found, F.cross_entropy(logits, y, label_smoothing=share))
        # the derivative: what is said, less what is wanted
        [gradient] = torch.autograd.grad(found, logits)
        torch.testing.assert_close(gradient, (logits.detach().softmax(1) - target) / 6)

    def test_nothing_is_smoothed_unasked(self):
        logits, y = logits_and_labels()
        found = CrossEntropy()(lambda x: x, logits, None, y).total
        assert torch.equal(found, F.cross_entropy(logits, y))

    def test_the_perturbed_batch_is_smoothed_where_it_is_the_one(self):
        (logits, y), (other, _) = logits_and_labels(), logits_and_labels(1)
        part = CrossEntropy(on="perturbed", label_smoothing=0.3)
        found = part(lambda x: x, logits, other, y).total
        torch.testing.assert_close(found, F.cross_entropy(other, y, label_smoothing=0.3))

    def test_accuracy_is_that_of_the_labels(self):
        logits, y = logits_and_labels()
        found = CrossEntropy(label_smoothing=0.9)(lambda x: x, logits, None, y)
        assert found.parts["accuracy"].item() == pytest.approx(
            float((logits.argmax(1) == y).double().mean())
        )

    def test_the_preset_smooths_by_a_tenth(self, make_model, make_batch):
        model, (x, y) = make_model("small").train(), make_batch("small", n=6)
        found = method.create("label-smoothing").loss(model, x, y).total
        expected = F.cross_entropy(model(x), y, label_smoothing=0.1)
        torch.testing.assert_close(found, expected)


class TestDropout:
    """Inputs of the last linear layer are dropped, in training mode, and nothing stays behind."""

    @pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
    def test_the_share_and_the_scale(self, share):
        torch.manual_seed(0)
        given_ = dropped(wide().train(), share, torch.zeros(40, 3))
        assert given_.unique().tolist() == pytest.approx([0, 1 / (1 - share)])
        found = float((given_ == 0).double().mean())
        assert abs(found - share) < 5 * (share * (1 - share) / given_.numel()) ** 0.5
        samples = (given_ == 0).double()
        assert len(samples.unique(dim=0)) == 40  # each sample by its own coins

    def test_it_is_the_dropout_of_torch_before_that_layer(self, make_model, make_batch):
        model, (x, y) = make_model("plain").train(), make_batch("plain", n=6)
        explicit = nn.Sequential(*copy.deepcopy(model)[:-1], nn.Dropout(0.3), model[-1]).train()
        torch.manual_seed(3)
        found = method.create("dropout", objective={"dropout": 0.3}).loss(model, x, y).total
        torch.manual_seed(3)
        expected = F.cross_entropy(explicit(x), y)
        assert torch.equal(found, expected)
        ours = torch.autograd.grad(found, list(model.parameters()))
        theirs = torch.autograd.grad(expected, list(explicit.parameters()))
        assert all(map(torch.equal, ours, theirs))

    def test_nothing_is_dropped_in_evaluation_mode(self, make_model, make_batch):
        model, (x, y) = make_model("small").eval(), make_batch("small", n=6)
        before = torch.get_rng_state()
        found = method.create("dropout").loss(model, x, y).total
        assert torch.equal(found, F.cross_entropy(model(x), y))
        assert torch.equal(torch.get_rng_state(), before)

    def test_the_mode_is_that_of_the_layer(self, make_model, make_batch):
        model, (x, y) = make_model("plain").train(), make_batch("plain", n=6)
        model[-1].eval()
        assert torch.equal(
            method.create("dropout").loss(model, x, y).total, F.cross_entropy(model(x), y)
        )

    def test_only_the_last_of_several_linear_layers(self):
        model = nn.Sequential(nn.Linear(50, 40), nn.ReLU(), nn.Linear(40, 4)).train()
        seen = []
        model[0].register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
        x = torch.rand(6, 50)
        given_ = dropped(model, 0.5, x)
        assert torch.equal(seen[0], x)
        kept = model[1](model[0](x))
        assert (given_ == torch.where(given_ == 0, 0, 2 * kept)).all()
        assert 0 < (given_[kept > 0] == 0).double().mean() < 1

    def test_a_timm_model_loses_inputs_of_its_head(self):
        model = models.create("resnet10-narrow", num_classes=10, in_chans=1, image_size=8).train()
        given_ = dropped(model, 0.5, torch.randn(8, 1, 8, 8))
        assert given_.shape == (8, 128)
        assert model.get_classifier().in_features == 128
        assert (given_ == 0).double().mean() > 0.4

    def test_the_perturbed_batch_is_dropped_where_it_is_the_one(self):
        model, x = wide().train(), torch.zeros(4, 3)
        seen = []
        model[2].register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
        part = CrossEntropy(on="perturbed", dropout=0.5)
        part(SharedPass(model, x), x, x + 1, torch.zeros(4, dtype=torch.int64))
        [given_] = seen
        assert (given_ == 0).any()

    def test_no_hook_stays_behind_and_none_is_lost(self):
        model, x, y = wide().train(), torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64)
        model[2].register_forward_pre_hook(lambda module, inputs: None)
        before = hooks(model)
        method.create("dropout").loss(model, x, y).total.backward()
        assert hooks(model) == before
        assert len(before) == 1

    @pytest.mark.parametrize("layer", [0, 2])
    def test_no_hook_stays_behind_where_a_layer_fails(self, layer):
        model, x, y = wide().train(), torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64)
        during = []

        def fail(*_):
            during.extend(hooks(model))
            raise KeyboardInterrupt

        own = model[layer].register_forward_hook(fail)
        with pytest.raises(KeyboardInterrupt):
            method.create("dropout").loss(model, x, y)
        own.remove()
        assert len(during) == 2
        assert hooks(model) == []

    def test_labels_that_do_not_fit_leave_no_hook_either(self):
        model, x = wide().train(), torch.zeros(4, 3)
        with pytest.raises((IndexError, RuntimeError)):
            method.create("dropout").loss(model, x, torch.full((4,), 9))
        assert hooks(model) == []

    def test_a_model_without_a_linear_layer_is_refused_by_name(self):
        class Convolutions(nn.Sequential):
            pass

        model = Convolutions(nn.Conv2d(1, 3, 8), nn.Flatten()).train()
        x, y = torch.zeros(2, 1, 8, 8), torch.zeros(2, dtype=torch.int64)
        with pytest.raises(ValueError, match=r"Convolutions has none: set .*dropout to 0"):
            method.create("dropout").loss(model, x, y)
        assert method.create("baseline").loss(model, x, y).total.isfinite()

    def test_it_draws_from_torchs_own_stream_and_no_other(self):
        model, x = wide().train(), torch.zeros(4, 3)
        generator = torch.Generator().manual_seed(1)
        given_, state = generator.get_state(), torch.get_rng_state()
        y = torch.zeros(4, dtype=torch.int64)
        method.create("dropout").loss(model, x, y, generator=generator)
        assert torch.equal(generator.get_state(), given_)
        assert not torch.equal(torch.get_rng_state(), state)
        torch.manual_seed(1)
        first = dropped(model, 0.5, x)
        again = dropped(model, 0.5, x)
        torch.manual_seed(1)
        assert torch.equal(dropped(model, 0.5, x), first)
        assert not torch.equal(first, again)

    def test_a_share_of_nothing_draws_nothing(self):
        model, x = wide().train(), torch.zeros(4, 3)
        state = torch.get_rng_state()
        assert dropped(model, 0.0, x).unique().tolist() == [1]
        assert torch.equal(torch.get_rng_state(), state)

    def test_the_preset_drops_half(self):
        assert method.create("dropout").objective.dropout == 0.5
        assert method.create("dropout").objective.label_smoothing == 0


@pytest.mark.parametrize("key", ["dropout", "label_smoothing"])
@pytest.mark.parametrize("value", [1.0, -0.1, float("nan")])
def test_shares_that_leave_nothing_are_refused(key, value):
    with pytest.raises(ValidationError, match=key):
        CrossEntropy(**{key: value})


def test_both_at_once_are_both():
    model, x, y = wide().train(), torch.zeros(4, 3), torch.tensor([0, 1, 0, 1])
    torch.manual_seed(5)
    found = CrossEntropy(dropout=0.5, label_smoothing=0.2)(SharedPass(model, x), x, None, y).total
    torch.manual_seed(5)
    logits = model[2](F.dropout(model[1](model[0](x)), 0.5))
    torch.testing.assert_close(found, F.cross_entropy(logits, y, label_smoothing=0.2))
