"""What docs/training-loop.md shows works as it stands there, and does what it says."""

import copy
import functools
import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import TensorDataset

from attrreg import catalogue, method
from attrreg.state import State

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "training-loop.md").read_text()
(
    PLAIN,
    BFLOAT16,
    FLOAT16,
    ACCUMULATED,
    COMPILED,
    DISTRIBUTED,
    STATE,
    CHECKPOINT,
) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)

GUIDED = ("reldrop-block", "sgt", "sgt-shared", "challenger")
SHARED = ("baseline", *GUIDED)
OTHERWISE = [
    *((name, "static_graph") for name in GUIDED if name != "sgt-shared"),
    *((name, "find_unused_parameters") for name in GUIDED),
]


def network(norm=False):
    """A small network; here and not among the fixtures, which a spawned process does not have."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1),
        nn.BatchNorm2d(6) if norm else nn.Identity(),
        *(nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 4)),
    )


def quadrants(n, seed=0):
    """Images of noise with one bright quadrant, which is the label."""
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(n, 2, 8, 8, generator=generator), torch.arange(n) % 4
    for image, label in zip(x, y.tolist(), strict=True):
        image.unflatten(1, (2, 4)).unflatten(3, (2, 4))[:, label // 2, :, label % 2] += 1
    return x, y


def yours(model, epochs=0, seed=0):
    """What the document says is the reader's; then its first block, for `epochs` epochs."""
    x, y = quadrants(64)
    names = {
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.2),
        "device": torch.device("cpu"),
        "loader": list(zip(x.split(16), y.split(16), strict=True)),
        "epochs": epochs,
        **{"inputs": x, "labels": y, "dataset": TensorDataset(x, y)},
    }
    exec(PLAIN.replace("manual_seed(0)", f"manual_seed({seed})"), names)
    return names


def weights(model):
    return nn.utils.parameters_to_vector(model.parameters()).detach().clone()


def gradients(model):
    return torch.cat([each.grad.flatten() for each in model.parameters()])


def accuracy(model):
    x, y = quadrants(200, seed=1)
    return (model(x).argmax(1) == y).float().mean()


def seeded(seed):
    return torch.Generator().manual_seed(seed)


# --- the plain loop -------------------------------------------------------------------------------


def test_the_plain_loop_learns(capsys):
    model = network()
    assert accuracy(model) < 0.5
    names = yours(model, epochs=20)
    assert accuracy(model) > 0.9
    assert len(capsys.readouterr().out.splitlines()) == 20
    assert names["sums"].keys() == {"accuracy", "masked_area", "energy"}


def test_nothing_but_its_generator_decides_what_the_plain_loop_does():
    first, second, third = network(), network(), network()
    yours(first, epochs=2)
    torch.manual_seed(5)
    yours(second, epochs=2)
    assert torch.equal(weights(first), weights(second))
    yours(third, epochs=2, seed=1)
    assert not torch.equal(weights(first), weights(third))


def test_the_parts_of_every_preset_are_explained():
    explained = TEXT[TEXT.index("**`loss.parts`**") : TEXT.index("**The model**")]
    found = set()
    for name in catalogue.PRESETS:
        found |= method.create(name).loss(network(), *quadrants(8)).parts.keys()
    assert found == {"accuracy", "masked_area", "energy", "cross_entropy", "divergence"}
    assert all(f"`{name}`" in explained for name in found)


# --- the other loops on one process ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("block", "name", "tolerance"),
    [
        *((BFLOAT16, name, 2e-3) for name in SHARED),
        *((FLOAT16, name, 1e-3) for name in SHARED),
        *((COMPILED, name, 1e-5) for name in GUIDED),
        (ACCUMULATED, "baseline", 1e-5),
    ],
)
def test_the_loop_does_what_the_plain_one_does(block, name, tolerance, monkeypatch):
    """torch's default backend takes seconds and a C++ compiler; aot_eager traces as it does."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    torch.compiler.reset()
    trained = {}
    for code in (PLAIN, block):
        names = yours(network())
        names |= {"guided": method.create(name), "epochs": 1}
        exec(code.replace('"reldrop-block"', repr(name)), names)
        trained[code] = weights(names["model"])
    assert (trained[PLAIN] - weights(network())).abs().max() > 5 * tolerance
    torch.testing.assert_close(trained[block], trained[PLAIN], atol=tolerance, rtol=0)


def test_a_guided_method_can_be_accumulated():
    names = yours(network())
    before = weights(names["model"])
    exec(ACCUMULATED, names)
    assert names["loss"].isfinite()
    assert not torch.equal(weights(names["model"]), before)


def test_gradients_accumulate_to_those_of_the_whole_batch():
    names = yours(network().double())
    x, y = quadrants(21)  # the last micro-batch is smaller
    names |= {"guided": method.create("baseline"), "loader": [(x.double(), y)]}
    exec(ACCUMULATED, names)
    alone = network().double()
    nn.functional.cross_entropy(alone(x.double()), y).backward()
    torch.testing.assert_close(gradients(names["model"]), gradients(alone))


class Recorded:
    """An attribution that keeps the maps it makes."""

    def __init__(self, attribution):
        self.attribution, self.maps = attribution, []
        self.forward_pass = getattr(attribution, "forward_pass", "")

    def __call__(self, *args):
        self.maps.append(self.attribution(*args))
        return self.maps[-1]


@pytest.mark.parametrize("name", GUIDED)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_maps_are_those_without_autocast(name, dtype):
    losses, maps = [], []
    for enabled in (False, True):
        guided = method.create(name)
        recorded = Recorded(guided.attribution)
        with torch.autocast("cpu", dtype, enabled=enabled):
            guided = replace(guided, attribution=recorded)
            loss = guided.loss(network(norm=True), *quadrants(16), generator=seeded(0)).total
        assert loss.dtype == torch.float32
        losses.append(loss)
        maps += recorded.maps
    torch.testing.assert_close(*losses, atol=1e-2, rtol=0)
    assert maps[1].dtype == torch.float32
    if name == "sgt-shared":  # has its map from the training pass
        assert not torch.equal(*maps)
        assert torch.corrcoef(torch.stack(maps).flatten(1))[0, 1] > 0.99
    else:
        assert torch.equal(*maps)


@pytest.mark.parametrize(("name", "passes"), [("reldrop-block", 1), ("sgt", 2), ("challenger", 1)])
def test_lrp_runs_no_compiled_code_and_a_gradient_map_does(name, passes):
    graphs = []

    def counting(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    model, (x, y) = network(norm=True), quadrants(16)
    compiled = torch.compile(model, backend=counting)
    guided, plain = method.create(name), network(norm=True)
    for seed in range(3):
        found = guided.loss(compiled, x, y, generator=seeded(seed)).total
        assert found == guided.loss(plain, x, y, generator=seeded(seed)).total
    assert len(graphs) == passes


def test_a_compiled_model_that_sgt_has_seen_serves_sgt_shared_without_donated_buffers():
    torch.compiler.reset()
    x, y = quadrants(16)
    with torch._functorch.config.patch(donated_buffer=False):
        compiled = torch.compile(network(), backend="aot_eager")
        for name in ("sgt", "sgt-shared"):
            guided = method.create(name)
            found, expected = (
                guided.loss(model, x, y, generator=seeded(0)).total
                for model in (compiled, network())
            )
            found.backward()
            torch.testing.assert_close(found, expected)


def test_dropout_acts_in_a_compiled_model_that_has_made_a_pass_before():
    torch.compiler.reset()
    compiled, (x, y) = torch.compile(network(), backend="eager"), quadrants(16)
    losses = {}
    for name in ("baseline", "dropout"):
        for model in (compiled, network()):
            torch.manual_seed(3)
            losses.setdefault(name, []).append(method.create(name).loss(model, x, y).total)
    assert torch.equal(*losses["dropout"])
    assert not torch.equal(losses["dropout"][0], losses["baseline"][1])


# --- several processes ----------------------------------------------------------------------------


def shared_step(rank, name, norm):
    """One step on a shard of 4 samples, and the mean of the gradients that each finds alone."""
    model, alone = network(norm), network(norm)
    x, y = (each[4 * rank : 4 * rank + 4] for each in quadrants(8))
    guided, found = method.create(name), {}
    for each in (DistributedDataParallel(model), alone):
        guided.loss(each, x, y, generator=seeded(rank)).total.backward()
    found["own"] = gradients(alone)
    found["mean"] = found["own"].clone()
    dist.all_reduce(found["mean"])
    found["mean"] /= dist.get_world_size()
    found["gradients"] = gradients(model)
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    return found | {"weights": weights(model)}


def accumulated(rank):
    """The gradients of two micro-batches of 2 samples, exchanged with the last."""
    model = network()
    ddp, baseline = DistributedDataParallel(model), method.create("baseline")
    x, y = (each[4 * rank : 4 * rank + 4] for each in quadrants(8))
    with ddp.no_sync():
        (baseline.loss(ddp, x[:2], y[:2]).total / 2).backward()
    (baseline.loss(ddp, x[2:], y[2:]).total / 2).backward()
    return gradients(model)


def distributed_block(epochs):
    names = yours(network(norm=True))
    names["epochs"] = epochs
    exec(DISTRIBUTED, names)
    return weights(names["model"])


def with_other_settings(rank, name, **settings):
    """The weights after steps under a wrapper with these settings, and under a plain one."""
    ended = []
    for options in (settings, {}):
        model, generator = network(), seeded(rank)
        ddp = DistributedDataParallel(model, **options)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
        for place in range(3):
            x, y = (each[rank + place :: 4] for each in quadrants(16))
            optimizer.zero_grad()
            method.create(name).loss(ddp, x, y, generator=generator).total.backward()
            optimizer.step()
        ended.append(weights(model))
    return ended


def refused(name):
    """What is said of a method under a static graph."""
    ddp, (x, y) = DistributedDataParallel(network(), static_graph=True), quadrants(8)
    try:
        method.create(name).loss(ddp, x, y)
    except ValueError as error:
        return str(error)
    return ""


def work(rank, folder):
    """Do in each of two processes what the tests look at."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=2,
        timeout=timedelta(minutes=3),
    )
    found = {(name, norm): shared_step(rank, name, norm) for name in SHARED for norm in (0, 1)}
    found["accumulated"] = accumulated(rank)
    found["block"] = [distributed_block(epochs) for epochs in (0, 4)]
    for name, settings in OTHERWISE:
        found[name, settings] = with_other_settings(rank, name, **{settings: True})
    found["refused"] = refused("sgt-shared")
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """What each of two processes has found; one start for all tests."""
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(work, (folder,), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("name", SHARED)
def test_processes_share_the_mean_of_their_gradients(name, norm, processes):
    first, second = (found[name, norm] for found in processes)
    assert torch.equal(first["weights"], second["weights"])
    assert not torch.equal(first["weights"], weights(network(norm)))
    for found in (first, second):
        torch.testing.assert_close(found["gradients"], found["mean"])
        assert not torch.allclose(found["gradients"], found["own"])


@pytest.mark.parametrize("key", [("baseline", 0), "accumulated"])
def test_the_shared_gradients_are_those_of_the_joint_batch(key, processes):
    x, y = quadrants(8)
    model = network()
    method.create("baseline").loss(model, x, y).total.backward()
    for found in processes:
        shared = found[key] if key == "accumulated" else found[key]["gradients"]
        torch.testing.assert_close(shared, gradients(model))


def test_the_loop_on_several_processes_keeps_them_alike(processes):
    (before, first), (_, second) = (found["block"] for found in processes)
    assert torch.equal(first, second)
    assert (first - before).abs().max() > 0.01


@pytest.mark.parametrize(("name", "settings"), OTHERWISE)
def test_maps_leave_a_wrapper_with_other_settings_alone(name, settings, processes):
    (first, plain), (second, _) = (found[name, settings] for found in processes)
    assert torch.equal(first, second)
    assert not torch.equal(first, weights(network()))
    torch.testing.assert_close(first, plain)


def test_a_shared_pass_refuses_a_static_graph(processes):
    assert "static_graph=False" in processes[0]["refused"]


# --- State ----------------------------------------------------------------------------------------

ROWS = {
    label: (set(re.findall(r"`(\w+)`", fields)), without)
    for labels, fields, without in re.findall(r"^\| (`.*`) \| (.*) \| (.*)\|$", TEXT, re.MULTILINE)
    for label in re.findall(r"`([^`]+)`", labels)
}
WRAPPED = {
    "{name: cached, …}": {"name": "cached", "every": 2},
    "{name: lrp, rule: z-box}": {"rule": "z-box"},
}
METHODS = {name: method.create(name) for name in method.names()} | {
    label: method.create("reldrop-block", attribution=change) for label, change in WRAPPED.items()
}


def row_of(name):
    """The label of the row that a method has in the table."""
    base, _, control = name.partition("/")
    if control:
        return f"…/{control}"
    return "reldrop-…" if base.startswith("reldrop") else name


def losses(name, fields):
    """The losses of one batch, whatever torch's own generator gives."""
    found = []
    for seed in range(3):
        known = {
            "generator": seeded(1),
            "indices": torch.arange(16),
            "size": 16,
            "epoch": 0,
            "memory": {},
            "region": torch.rand(16, 8, 8, generator=seeded(2)),
            "bounds": ((-9.0, -9.0), (9.0, 9.0)),
        }
        state = State(**{field: known[field] for field in fields})
        torch.manual_seed(seed)
        model, (x, y) = network(), quadrants(16)
        torch.manual_seed(seed)
        total = METHODS[name].loss(model, x, y, generator=seeded(0), state=state).total
        assert total.isfinite()
        found.append(total.item())
    return found


def test_every_row_is_that_of_a_method():
    assert ROWS.keys() == {row_of(name) for name in METHODS}


@pytest.mark.parametrize("name", METHODS)
def test_the_fields_named_are_what_a_method_needs(name):
    fields, without = ROWS[row_of(name)]
    torches_own = "torch's own" in without
    assert len(set(losses(name, fields - {"none"}))) == (3 if name == "dropout" else 1)
    if "an error" in without:
        with pytest.raises(ValueError, match="pass State"):
            losses(name, ())
    else:
        assert (len(set(losses(name, ()))) > 1) == torches_own


@pytest.mark.parametrize(
    "name", ["{name: cached, …}", "reldrop-block/untrained", "sgt/swapped-within-class", "dropout"]
)
def test_a_training_taken_up_again_ends_with_the_same_weights(name, tmp_path):
    ends = []
    for interrupted in (False, True):
        torch.manual_seed(interrupted)
        model = network(norm=True)
        names = yours(model)
        exec(STATE, names)
        exec(CHECKPOINT, names)
        names["guided"] = METHODS[name]
        if interrupted:
            with torch.no_grad():
                model[0].weight.zero_()
            torch.rand(3), torch.rand(5, generator=names["generator"])
            first = names["resume"](tmp_path / "checkpoint")
            assert first == 2
        else:
            for epoch in range(2):
                names["train"](epoch)
            names["save"](tmp_path / "checkpoint", epoch=2)
        for epoch in (2, 3):
            names["train"](epoch)
        ends.append(weights(model))
    assert torch.equal(*ends)


def test_the_loop_with_cached_maps_keeps_one_per_sample():
    names = yours(network())
    names["epochs"] = 2
    before = weights(names["model"])
    exec(STATE, names)
    ((maps, there),) = names["memory"].values()
    assert maps.shape == (64, 8, 8)
    assert there.all()
    assert not torch.equal(weights(names["model"]), before)


def test_a_plain_copy_can_be_put_into_the_memory():
    (line,) = re.findall(r'`(memory\["untrained"\] = .*)`', TEXT)
    names = {"model": network(), "memory": {}, "copy": copy}
    exec(line, names)
    kept = names["memory"]["untrained"]
    assert torch.equal(weights(kept), weights(names["model"]))
    assert not any(each.requires_grad for each in kept.parameters())
