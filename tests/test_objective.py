import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from attrreg.objective import Consistency, CrossEntropy, Mixture
from attrreg.state import SharedPass


@pytest.fixture
def case(make_model, make_batch):
    """A network without batch norm and dropout, a clean and a perturbed batch, labels."""
    x, y = make_batch("plain", n=6)
    return make_model("plain").train(), x, make_batch("plain", n=6, seed=1)[0], y


def probabilities(logits):
    """Probabilities and their logarithms, by definition."""
    exponentials = (logits - logits.amax(1, keepdim=True)).exp()
    share = exponentials / exponentials.sum(1, keepdim=True)
    return share, share.log()


def entropy(logits, y):
    """Cross-entropy by definition."""
    return -probabilities(logits)[1][range(len(y)), y].mean()


def divergence(clean, perturbed):
    """KL(clean ‖ perturbed) by definition, the mean over samples."""
    share, log_share = probabilities(clean)
    return (share * (log_share - probabilities(perturbed)[1])).sum(1).mean()


def gradients(model, total):
    """The gradient of a loss by every parameter."""
    return torch.autograd.grad(total, list(model.parameters()))


def assert_same_loss(model, found, expected):
    """Ask for the same value and the same gradients."""
    torch.testing.assert_close(found, expected)
    pairs = zip(gradients(model, found), gradients(model, expected), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs)


def test_cross_entropy_is_of_the_batch_that_was_named(case):
    model, x, perturbed, y = case
    assert_same_loss(model, CrossEntropy()(model, x, perturbed, y).total, entropy(model(x), y))
    found = CrossEntropy(on="perturbed")(model, x, perturbed, y).total
    assert_same_loss(model, found, entropy(model(perturbed), y))


@pytest.mark.parametrize("weight", [0.0, 1.0, 2.5])
def test_consistency_is_the_equation_of_the_paper(weight, case):
    model, x, perturbed, y = case
    clean, other = model(x), model(perturbed)
    found = Consistency(weight=weight)(model, x, perturbed, y)
    assert_same_loss(model, found.total, entropy(clean, y) + weight * divergence(clean, other))
    torch.testing.assert_close(found.parts["divergence"], divergence(clean, other).detach())
    torch.testing.assert_close(found.parts["cross_entropy"], entropy(clean, y).detach())


def test_a_detached_divergence_does_not_move_the_clean_prediction(case):
    model, x, perturbed, y = case
    found = Consistency(detach_clean=True)(model, x, perturbed, y)
    clean = model(x)
    expected = entropy(clean, y) + divergence(clean.detach(), model(perturbed))
    assert_same_loss(model, found.total, expected)


def test_concatenated_passes_give_the_separate_loss_without_batch_norm(case):
    model, x, perturbed, y = case
    separate = Consistency()(model, x, perturbed, y)
    together = Consistency(passes="concatenated")(model, x, perturbed, y)
    assert_same_loss(model, together.total, separate.total)
    for name, value in separate.parts.items():
        torch.testing.assert_close(together.parts[name], value)


def test_concatenated_passes_share_the_statistics_of_a_batch_norm(make_model, make_batch):
    model, passes = make_model("small").train(), []
    model.register_forward_hook(lambda module, inputs, logits: passes.append(len(inputs[0])))
    x, y = make_batch("small", n=4)
    Consistency(passes="concatenated")(model, x, 2 * x, y)
    assert passes == [8]
    passes.clear()
    Consistency()(model, x, 2 * x, y)
    assert passes == [4, 4]


@pytest.mark.parametrize(("name", "expected"), [("plain", [8]), ("small", [4, 4])])
def test_batches_go_through_in_one_pass_where_no_statistics_mix(
    name, expected, make_model, make_batch
):
    model, passes = make_model(name).train(), []
    model.register_forward_hook(lambda module, inputs, logits: passes.append(len(inputs[0])))
    x, y = make_batch(name, n=4)
    found = Consistency()(SharedPass(model, x), x, 2 * x, y)
    assert passes == expected
    separate = Consistency(passes="separate")(SharedPass(model, x), x, 2 * x, y)
    assert_same_loss(model, found.total, separate.total)


def test_a_clean_pass_that_a_map_has_needed_is_not_made_again(case):
    model, x, perturbed, y = case
    forward, passes = SharedPass(model, x), []
    forward(x)
    model.register_forward_hook(lambda module, inputs, logits: passes.append(len(inputs[0])))
    Consistency()(forward, x, perturbed, y)
    assert passes == [6]


@pytest.mark.parametrize("passes", ["separate", "concatenated"])
def test_the_divergence_of_equal_inputs_is_zero(passes, make_model, make_batch):
    model = make_model("vgg").eval()  # dropout off
    x, y = make_batch("vgg", n=4)
    found = Consistency(passes=passes)(model, x, x.clone(), y)
    assert abs(found.parts["divergence"]) < 1e-12
    torch.testing.assert_close(found.total, entropy(model(x), y))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    scale=st.floats(0, 1000),
    distance=st.floats(0, 1000),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_the_divergence_is_never_negative_nor_infinite(seed, scale, distance, dtype):
    generator = torch.Generator().manual_seed(seed)
    clean, shift = torch.randn(2, 5, 7, generator=generator, dtype=dtype)
    perturbed = scale * clean + distance * shift
    y = torch.zeros(5, dtype=torch.int64)
    found = Consistency()(lambda logits: logits, scale * clean, perturbed, y)
    smallest = -1e-6 * max(1, scale) if dtype == torch.float32 else -1e-12 * max(1, scale)
    assert found.parts["divergence"] >= smallest
    assert found.total.isfinite()


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_mixture_is_as_written(share, case):
    model, x, perturbed, y = case
    found = Mixture(perturbed_share=share)(model, x, perturbed, y)
    expected = (1 - share) * entropy(model(x), y) + share * entropy(model(perturbed), y)
    assert_same_loss(model, found.total, expected)


@pytest.mark.parametrize(("share", "passes"), [(0.0, 1), (0.5, 2), (1.0, 1)])
def test_a_share_of_nothing_makes_no_pass(share, passes, case):
    model, x, perturbed, y = case
    seen = []
    model.register_forward_hook(lambda *_: seen.append(1))
    Mixture(perturbed_share=share)(model, x, perturbed, y)
    assert len(seen) == passes


@pytest.mark.parametrize(
    ("objective", "first"),
    [
        (CrossEntropy(), "clean"),
        (CrossEntropy(on="perturbed"), "perturbed"),
        (Consistency(), "clean"),
        (Consistency(passes="concatenated"), "clean"),
        (Mixture(perturbed_share=0.5), "clean"),
        (Mixture(perturbed_share=1.0), "perturbed"),
    ],
    ids=repr,
)
def test_accuracy_is_of_the_batch_that_entered_first(objective, first, case):
    model, x, perturbed, _ = case
    y = model(x if first == "clean" else perturbed).argmax(1)
    y[0] = (y[0] + 1) % 4
    found = objective(model, x, perturbed, y).parts["accuracy"]
    assert found.item() == pytest.approx(5 / 6)


@pytest.mark.parametrize("objective", [CrossEntropy(on="perturbed"), Consistency(), Mixture()])
def test_an_objective_without_what_it_needs_says_so(objective, case):
    model, x, _, y = case
    with pytest.raises(ValueError, match=r"perturbed batch.*perturbation"):
        objective(model, x, None, y)


@pytest.mark.parametrize(
    "objective",
    [CrossEntropy(), CrossEntropy(on="perturbed"), Consistency(), Mixture(perturbed_share=0.5)],
    ids=repr,
)
def test_parts_are_detached_scalars_and_the_total_has_a_graph(objective, case):
    loss = objective(*case)
    assert loss.total.ndim == 0
    assert loss.total.requires_grad
    for value in loss.parts.values():
        assert value.ndim == 0
        assert not value.requires_grad


def test_single_samples(case):
    model, x, perturbed, y = case
    for objective in (CrossEntropy(), Consistency(), Consistency(passes="concatenated"), Mixture()):
        one = objective(model, x[:1], perturbed[:1], y[:1])
        assert one.total.isfinite()
        pair = objective(model, x[:1].expand(2, -1, -1, -1), perturbed[[0, 0]], y[[0, 0]])
        torch.testing.assert_close(one.total, pair.total)


def test_labels_are_compared_with_what_torch_says(case):
    model, x, _, y = case
    torch.testing.assert_close(entropy(model(x), y), F.cross_entropy(model(x), y))
