"""A verdict says supported only of what is right, and tells what is refused from what is wrong."""

import re
from pathlib import Path

import pytest
import torch
from experiments import command
from torch import nn
from torch.nn import functional as F

from attrreg import catalogue
from attrreg.attribution import verdict
from attrreg.attribution.verdict import LAYERWISE, Verdict, judge, names_in, write_table

TABLE = Path(__file__).resolve().parents[2] / "docs" / "timm-verdicts.md"
NAME = "resnet18"  # which the models of these tests are called


class Small(nn.Module):
    """A network whose residual branch is silent as it starts."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3, 2), nn.BatchNorm2d(6)
        self.branch, self.scale = nn.Conv2d(6, 6, 1), nn.Parameter(torch.full((6, 1, 1), 1e-6))
        self.head = nn.Linear(6, 10)
        nn.init.zeros_(self.head.bias)

    def forward(self, x):
        h = F.relu(self.norm(self.conv(x)))
        return self.head((h + self.scale * self.branch(h)).mean((2, 3)))


@pytest.fixture
def given(monkeypatch):
    """Return a function that lets timm make a model, whatever is asked for."""

    def give(build):
        monkeypatch.setattr("timm.create_model", lambda name, **options: build())

    return give


@pytest.fixture
def engine(monkeypatch):
    """Return a function that puts something wrong into the engine, as the checks see it."""

    def break_(relevance=None, ledger=None):
        for name, wrong in (("relevance", relevance), ("ledger", ledger)):
            if wrong is not None:
                right = getattr(verdict, name)
                monkeypatch.setattr(
                    verdict, name, lambda *a, wrong=wrong, right=right: wrong(right(*a), *a)
                )

    return break_


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_what_the_engine_explains_is_supported(name):
    found = judge(name)
    assert found.outcome == "supported", found
    assert (found.size, found.batch) == (32, 2)
    assert found.residual < 1e-10
    assert found.lost < 1e-5


@pytest.mark.parametrize("name", ["mnist-cnn", "cnn-series", "mobilenetv3-small"])
def test_models_of_our_own_are_judged_as_training_builds_them(name):
    found = judge(name, ["epsilon-plus", "z-box"])
    assert found.outcome == "supported", found
    assert found.lost < 1e-4


def test_what_the_engine_refuses_is_refused_by_operation_and_module():
    found = judge("test_mambaout", ["lrp-0", "gamma"])
    assert found.outcome == "refused"
    assert re.match(r"torch\.Tensor\.mul in module 'stages\.3\.blocks\.0' multi", found.reason)
    assert "supported operations" not in found.reason
    assert (found.residual, found.lost) == (None, None)


def _nan(result, model, x, y, rule):
    return result._replace(relevance=result.relevance / 0)


def _zero(result, model, x, y, rule):
    return result._replace(relevance=0 * result.relevance)


def _unbalanced(result, model, x, y, rule):
    return result._replace(relevance=1.1 * result.relevance)


def _another(result, model, x, y, rule):
    return result._replace(explained=result.explained + 1, absorbed=result.absorbed + 1)


def _leaves_a_trace(result, model, x, y, rule):
    with torch.no_grad():
        model.head.bias[0] += 1e-12
    return result


def _draws(result, model, x, y, rule):
    torch.rand(1)
    return result


def _hooks(result, model, x, y, rule):
    model.conv.register_forward_hook(lambda *_: None)
    return result


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (_nan, "not finite"),
        (_zero, "zero everywhere"),
        (_unbalanced, "of the output is unaccounted for"),
        (_another, "not the logit"),
        (_leaves_a_trace, "not what it was before"),
        (_draws, "not what it was before"),
        (_hooks, "not what it was before"),
    ],
)
def test_accounts_that_are_wrong_are_never_supported(wrong, said, given, engine):
    given(Small)
    assert judge(NAME, ["epsilon"]).outcome == "supported"
    engine(ledger=wrong)
    found = judge(NAME, ["epsilon"])
    assert found.outcome == "fails"
    assert said in found.reason


def test_a_map_that_depends_on_the_batch_is_wrong(given, engine):
    given(Small)
    engine(relevance=lambda found, model, x, *_: found + 0.01 * found.roll(1, 0) * (len(x) > 1))
    assert "alone and in a batch" in judge(NAME, ["epsilon"]).reason


def test_a_map_of_single_precision_that_is_another_one_is_wrong(given, engine):
    def imprecise(found, model, x, y, rule):
        return found * (1.1 if x.dtype == torch.float32 and rule.name == "epsilon" else 1)

    given(Small)
    engine(relevance=imprecise)
    said = "fails: epsilon: the maps of single and double precision differ by 1e-01"
    assert judge(NAME, ["epsilon", "lrp-0"]).said == said


def test_rules_are_not_blamed_where_gradients_of_single_precision_are_others_too(given, engine):
    given(Small)
    engine(relevance=lambda found, model, x, *_: found * (1.1 if x.dtype == torch.float32 else 1))
    assert judge(NAME, ["epsilon"]).outcome == "supported"


def test_absorbing_what_does_not_balance_is_found_out_without_biases(given, engine):
    """Whatever is lost can be called absorbed, and every ledger balances."""

    def halved(result, *_):
        return result._replace(
            relevance=result.relevance / 2,
            absorbed=result.absorbed + result.relevance.flatten(1).sum(1) / 2,
        )

    given(Small)
    engine(ledger=halved, relevance=lambda found, *_: found / 2)
    found = judge(NAME, ["lrp-0"])
    assert found.outcome == "fails"
    assert "is lost where nothing absorbs" in found.reason
    assert found.residual < 1e-10


def test_a_rule_that_is_wrong_is_named_and_the_others_are_not(given, engine):
    def only_gamma(result, model, x, y, rule):
        return _zero(result, model, x, y, rule) if rule.name == "gamma" else result

    given(Small)
    engine(ledger=only_gamma)
    found = judge(NAME, ["lrp-0", "epsilon", "gamma"])
    assert found.said == "fails: gamma: the map is zero everywhere"
    assert judge(NAME, ["gamma"]).said == "fails: the map is zero everywhere"
    assert found.residual is not None


def test_nothing_is_silent_in_the_model_that_is_checked():
    torch.manual_seed(0)
    model = Small().eval()
    verdict._enliven(model, (3, 32, 32))
    for name, values in model.state_dict().items():
        if values.numel() > 1:
            assert values.unique().numel() > 1, name
    assert model.scale.abs().min() > 0.1
    assert (model.norm.weight < 0).any()
    assert model.norm.running_var.min() > 0
    assert not model.norm.training


def test_the_smallest_image_is_looked_for_and_a_refusal_of_all_is_said(given):
    class Picky(Small):
        smallest = 96

        def forward(self, x):
            assert x.shape[-1] >= self.smallest, "too small"
            return super().forward(x)

    given(Picky)
    assert judge(NAME, ["lrp-0"]).size == 96
    Picky.smallest = 1000
    assert judge(NAME, ["lrp-0"]).reason == "takes no image of 32 to 512 pixels: too small"


def test_a_model_built_for_a_size_is_built_for_the_smallest(monkeypatch):
    sizes = []

    def create(name, img_size, **options):
        sizes.append(img_size)
        assert img_size % 3 == 0, "has windows of 3"
        return Small()

    monkeypatch.setattr("timm.create_model", create)
    assert judge(NAME, ["lrp-0"]).size == 96
    assert sizes == [32, 64, 96]


def test_a_large_model_is_checked_on_one_sample_and_the_line_says_so(given, monkeypatch):
    monkeypatch.setattr(verdict, "MANY", 100)
    given(Small)
    found = judge(NAME, ["lrp-0"])
    assert found.outcome == "supported"
    assert "1 × 3 × 32 × 32" in str(found)


def test_whatever_a_model_raises_is_a_verdict_and_the_random_stream_is_given_back(given):
    def broken():
        torch.rand(3)
        raise MemoryError("no room\nat all")

    given(broken)
    before = torch.get_rng_state()
    assert judge(NAME).said == "fails: takes no image of 32 to 512 pixels: no room"
    assert torch.equal(torch.get_rng_state(), before)


def test_the_command_line_checks_all_and_its_exit_code_says_whether_all_are_supported(monkeypatch):
    def create(name, **options):
        if name == "resnet34":
            raise TypeError("broken")
        return Small()

    monkeypatch.setattr("timm.create_model", create)
    answer = command("models", "--check", "resnet34,resnet18", "--rule", "lrp-0")
    assert answer.code == 4
    first, second = answer.out.splitlines()
    assert first.startswith("resnet34: fails: TypeError: broken")
    assert second.startswith("resnet18: supported (")
    assert command("models", "--check", "resnet18", "--rule", "lrp-0").code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--check", "resnet18", "--check", "resnet81"), "did you mean 'resnet18'?"),
        (("--check", "resnet18", "--rule", "gradient"), "keeps no ledger: give layer-wise ones"),
        (("--check", "resnet18", "--rule", "lrp"), "unknown relevance rule 'lrp'"),
        (("--rule", "lrp-0"), "give --check <name>, too"),
        (("--table", "none.md"), "lists no model yet: give --check <name>, too"),
        (("--table", "none.md", "--check", "resnet18", "--rule", "lrp-0"), "not both"),
    ],
)
def test_the_command_line_refuses_before_it_checks_anything(arguments, said, monkeypatch):
    monkeypatch.setattr(verdict, "judge", None)
    answer = command("models", *arguments)
    assert (answer.code, answer.out) == (2, "")
    assert said in answer.err
    assert answer.err.count("\n") == 1


def test_a_table_is_written_again_with_what_it_lists_and_what_is_new(tmp_path, monkeypatch):
    path = tmp_path / "verdicts.md"
    refused = Verdict("resnet50", "refused", "an operation | with a bar", 1_000_000, 32, 2)
    write_table(path, [refused, Verdict("resnet18", "supported", "", 10**7, 32, 2, 1e-15, 4e-7)])
    assert names_in(path) == ["resnet18", "resnet50"]
    rows = [line for line in path.read_text().splitlines() if line.startswith("| `")]
    assert rows[0] == "| `resnet18` | 10.0 | 32 | 1e-15 | 4e-07 | supported |"
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 7 for row in rows)
    monkeypatch.setattr(verdict, "judge", lambda name, rules: Verdict(name, "supported"))
    assert command("models", "--table", path, "--check", "vgg16").code == 0
    assert names_in(path) == ["resnet18", "resnet50", "vgg16"]


# Rows of the published table, quick to check again: one verdict of each kind and family.
AGAIN = ("mobilenetv3_small_100", "vit_tiny_patch16_224", "gmlp_s16_224", "eva02_tiny_patch14_224")


@pytest.mark.parametrize("name", AGAIN)
def test_the_published_table_is_still_true(name):
    [row] = [line for line in TABLE.read_text().splitlines() if line.startswith(f"| `{name}` |")]
    *_, parameters, size, _, _, said, _ = (cell.strip() for cell in row.split("|"))
    found = judge(name)
    assert (said, int(size)) == (found.said, found.size)
    assert float(parameters) == pytest.approx(found.parameters / 1e6, abs=0.05)


def test_the_published_table_has_fifty_architectures_that_timm_knows():
    names = names_in(TABLE)
    assert len(names) == len(set(names)) >= 50
    assert set(names) <= set(catalogue.timm_names())
    counted = re.findall(r"\*\*(?:supported|refused|fails)\*\* \((\d+)\)", TABLE.read_text())
    assert sum(map(int, counted)) == len(names)


def test_every_layerwise_rule_is_checked_if_none_is_named():
    assert {"lrp-0", "epsilon", "z-box", "attention-aware"} <= set(LAYERWISE)
    assert not {"gradient", "smoothgrad"} & set(LAYERWISE)
