"""The relevance engine is right on every model of the catalogue, frozen or with drop rates too."""

from dataclasses import replace

import pytest
import torch
from narrow import OURS, batch, build
from torch import nn

from attrreg.attribution import RULES, ledger, relevance

BOUNDED = replace(RULES["z-box"], low=-4.0, high=4.0)
CONSERVING = {rule.name: rule for rule in RULES.values() if rule.conserves} | {"z-box": BOUNDED}


@pytest.fixture(scope="module", params=OURS)
def explained(request):
    """A model of double precision with lively norms, a sample of each class, and the logits."""
    model = build(request.param).double()
    generator = torch.Generator().manual_seed(5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.LayerNorm):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.3, generator=generator)
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    x, y = batch(request.param, dtype=torch.float64)
    x = x.clamp(-4, 4)
    with torch.no_grad():
        logits = model.eval()(x).gather(1, y[:, None])[:, 0]
    return model, x, y, logits


@pytest.mark.parametrize("rule", CONSERVING)
def test_relevance_and_what_is_absorbed_add_up_to_the_logit(explained, rule):
    model, x, y, logits = explained
    accounts = ledger(model, x, y, CONSERVING[rule])
    assert accounts.relevance.shape == x.shape
    assert accounts.relevance.flatten(1).any(1).all()
    scale = logits.abs().clamp_min(1)
    assert ((accounts.explained - logits).abs() <= 1e-10 * scale).all()
    missing = accounts.relevance.flatten(1).sum(1) + accounts.absorbed - logits
    assert (missing.abs() <= 1e-8 * scale).all()


@pytest.mark.parametrize("name", OURS)
def test_a_frozen_model_has_the_same_map_and_keeps_its_flags(name):
    free, frozen = build(name).train(), build(name, frozen="backbone").train()
    flags = [each.requires_grad for each in frozen.parameters()]
    modes = [each.training for each in frozen.modules()]
    x, y = batch(name)
    for rule in ("epsilon-plus-flat", "gradient"):
        assert torch.equal(relevance(frozen, x, y, rule), relevance(free, x, y, rule))
    assert flags == [each.requires_grad for each in frozen.parameters()]
    assert modes == [each.training for each in frozen.modules()]
    assert all(each.grad is None for each in frozen.parameters())


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("preact-resnet18", {"drop_rate": 0.5, "drop_path_rate": 0.5}),
        ("convnext-atto-small", {"drop_rate": 0.5, "drop_path_rate": 0.5}),
        ("vit-tiny-patch4", {"drop_rate": 0.5, "drop_path_rate": 0.5, "attn_drop_rate": 0.5}),
        ("densenet-bc-100-12", {"drop_rate": 0.5, "proj_drop_rate": 0.5}),
        ("mnist-cnn", {"drop_rates": (0.9, 0.9)}),
        ("cnn-series", {"drop_rate": 0.5}),
    ],
)
def test_drop_rates_change_training_and_not_the_map(name, rates):
    plain = build(name, **({"drop_rates": (0, 0)} if name == "mnist-cnn" else {}))
    dropping = build(name, **rates)
    dropping.load_state_dict(plain.state_dict())
    x, y = batch(name)
    for module in (plain.train(), dropping.train()):
        for norm in module.modules():
            if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
                norm.eval()
    assert torch.equal(plain(x), plain(x))
    assert not torch.equal(dropping(x), dropping(x))
    stream = torch.get_rng_state()
    found = relevance(dropping, x, y, "epsilon-plus")
    assert torch.equal(found, relevance(plain, x, y, "epsilon-plus"))
    assert torch.equal(stream, torch.get_rng_state())
