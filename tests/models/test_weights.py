"""Weights to start from are what was asked for, are safetensors, and are written down."""

import hashlib
import logging
import re

import pytest
import timm
import torch
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
)
from narrow import NARROW, batch, build
from safetensors.torch import save_file

from attrreg import models
from attrreg.models import hub
from attrreg.training.checkpoint import save_weights

COMMIT = "0123456789abcdef0123456789abcdef01234567"
THIN = {"layers": (1, 1, 1, 1), "channels": (8, 8, 8, 8)}
LARGE = {"num_classes": 5, "in_chans": 3, "image_size": 96}
SMALL = {**LARGE, "image_size": 32}
HEAD = ["fc.weight", "fc.bias"]


def thin(name="resnet18", **options):
    """Return a network of timm with weights that no other has."""
    torch.manual_seed(7)
    model = timm.create_model(name, **({**THIN, **options} if "resnet18" in name else options))
    for each in model.parameters():
        each.data.normal_(0, 0.1)
    return model


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Return a function that puts weights into an empty cache of the hub's client, offline."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("ATTRREG_OFFLINE", "1")

    def put(model, repository="timm/resnet18.a1_in1k", name="model.safetensors"):
        place = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
        for folder in ("blobs", "refs", f"snapshots/{COMMIT}"):
            (place / folder).mkdir(parents=True)
        (place / "refs" / "main").write_text(COMMIT)
        save_file(model.state_dict(), place / "weights")
        digest = hashlib.sha256((place / "weights").read_bytes()).hexdigest()
        (place / "weights").rename(place / "blobs" / digest)
        (place / f"snapshots/{COMMIT}/{name}").symlink_to(f"../../blobs/{digest}")
        return digest

    return put


@pytest.fixture
def stored(tmp_path):
    """Return a function that writes the weights of a model as safetensors."""

    def write(model, name="weights.safetensors", **changes):
        state = {**model.state_dict(), **changes}
        save_file({key: each for key, each in state.items() if each is not None}, tmp_path / name)
        return tmp_path / name

    return write


def assert_same(model, source, but=()):
    """Ask for the tensors of a source in all of a model, but for those that are new."""
    found, expected = model.state_dict(), source.state_dict()
    assert found.keys() == expected.keys()
    for name in expected.keys() - set(but):
        assert torch.equal(found[name], expected[name]), name


class TestPretrained:
    """Weights of timm, from a cache that the hub's own client reads."""

    def test_are_loaded_and_what_they_are_is_written_down(self, cache):
        source = thin()
        digest = cache(source)
        model = models.create("resnet18", pretrained=True, **LARGE, **THIN)
        assert_same(model, source, but=HEAD)
        assert models.origin(model) == {
            "source": "hub:timm/resnet18.a1_in1k/model.safetensors",
            "revision": COMMIT,
            "digest": f"sha256:{digest}",
            "replaced": HEAD,
            "adapted": [],
        }

    def test_of_as_many_classes_replace_nothing(self, cache):
        source = thin()
        cache(source)
        model = models.create("resnet18", pretrained=True, **{**LARGE, "num_classes": 1000}, **THIN)
        assert_same(model, source)
        assert models.origin(model)["replaced"] == []

    def test_of_three_channels_are_summed_for_one(self, cache):
        source = thin()
        cache(source)
        model = models.create("resnet18", pretrained=True, **{**LARGE, "in_chans": 1}, **THIN)
        expected = source.conv1.weight.sum(1, keepdim=True)
        torch.testing.assert_close(model.conv1.weight, expected)
        assert models.origin(model)["adapted"] == ["conv1.weight"]

    def test_keep_all_but_the_stem_for_small_images_unless_that_is_asked_to_stay(self, cache):
        source = thin()
        cache(source)
        model = models.create("resnet18", pretrained=True, **SMALL, **THIN)
        assert model.conv1.kernel_size == (3, 3)
        assert models.origin(model)["replaced"] == ["conv1.weight", *HEAD]
        whole = models.create("resnet18", pretrained=True, **SMALL, **THIN, small_stem=False)
        assert_same(whole, source, but=HEAD)
        assert models.origin(whole)["replaced"] == HEAD

    def test_of_a_stem_that_only_loses_its_stride_are_kept(self, cache):
        source = thin("mobilenetv3_small_100")
        cache(source, "timm/mobilenetv3_small_100.lamb_in1k")
        model = models.create("mobilenetv3-small", pretrained=True, **SMALL)
        assert torch.equal(model.conv_stem.weight, source.conv_stem.weight)
        assert model.conv_stem.stride == (1, 1)
        assert models.origin(model)["replaced"] == ["classifier.weight", "classifier.bias"]

    def test_of_another_image_size_have_their_positions_fitted_by_timm(self, cache):
        source = thin("test_vit")
        cache(source, "timm/test_vit.r160_in1k")
        model = models.create("test_vit", pretrained=True, **{**LARGE, "image_size": 64})
        assert model.pos_embed.shape[1] < source.pos_embed.shape[1]
        assert torch.equal(model.blocks[0].attn.qkv.weight, source.blocks[0].attn.qkv.weight)
        assert model.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 5)

    def test_can_be_chosen_among_those_of_an_architecture(self, cache):
        cache(thin(), "timm/resnet18.fb_ssl_yfcc100m_ft_in1k")
        chosen = {"pretrained_cfg": "fb_ssl_yfcc100m_ft_in1k"}
        model = models.create("resnet18", pretrained=True, **LARGE, **THIN, **chosen)
        assert "fb_ssl_yfcc100m" in models.origin(model)["source"]
        with pytest.raises(ValueError, match=r"unknown weights of 'resnet18' 'a1_in2k'.*'a1_in1k'"):
            models.create("resnet18", **LARGE, pretrained=True, pretrained_cfg="a1_in2k")
        with pytest.raises(ValueError, match="give the name of one of timm's weights"):
            models.create("resnet18", **LARGE, pretrained=True, pretrained_cfg={"file": "x.pth"})

    @pytest.mark.parametrize("offline", ["ATTRREG_OFFLINE", "HF_HUB_OFFLINE"])
    def test_that_are_missing_offline_are_named_with_how_to_bring_them(
        self, cache, monkeypatch, offline
    ):
        monkeypatch.delenv("ATTRREG_OFFLINE")
        monkeypatch.setenv(offline, "1")
        with pytest.raises(FileNotFoundError) as raised:
            models.create("resnet18", pretrained=True, **LARGE)
        said = str(raised.value)
        assert "nothing is fetched offline" in said
        assert "hf download timm/resnet18.a1_in1k model.safetensors" in said
        assert "weights: <path>.safetensors" in said

    @pytest.mark.parametrize(
        ("raised", "kind", "said"),
        [
            (LocalEntryNotFoundError("x"), FileNotFoundError, "the hub cannot be reached"),
            (ConnectionError("x"), FileNotFoundError, "the hub cannot be reached"),
            (EntryNotFoundError("x"), ValueError, "has no model.safetensors, and other formats"),
        ],
    )
    def test_that_cannot_be_had_are_an_error_that_says_why(self, monkeypatch, raised, kind, said):
        monkeypatch.delenv("ATTRREG_OFFLINE", raising=False)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)

        def download(*_):
            raise raised

        monkeypatch.setattr(hub, "download", download)
        with pytest.raises(kind, match=f"pretrained weights of 'resnet18': .*{said}"):
            models.create("resnet18", pretrained=True, **LARGE)

    def test_that_are_damaged_in_the_cache_are_refused(self, cache, tmp_path):
        digest = cache(thin())
        [blob] = tmp_path.rglob(f"blobs/{digest}")
        blob.write_bytes(blob.read_bytes()[:-1] + b"?")
        with pytest.raises(ValueError, match=f"is damaged: .* the hub says sha256:{digest}"):
            models.create("resnet18", pretrained=True, **LARGE, **THIN)

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            (
                "legacy_seresnet18",
                "no pretrained weights .* as safetensors: they exist only as http",
            ),
            ("vit_base_patch32_plus_256", "there are no pretrained weights"),
            ("mnist-cnn", "'mnist-cnn' is no architecture of timm"),
        ],
    )
    def test_that_do_not_exist_as_safetensors_are_refused_by_name(self, name, said):
        with pytest.raises(ValueError, match=said):
            models.create(name, pretrained=True, **LARGE)

    def test_that_do_not_fit_the_options_say_so(self, cache):
        cache(thin())
        with pytest.raises(ValueError, match=r"hub:timm/.* does not fit model 'resnet18' .*conv1"):
            models.create("resnet18", pretrained=True, **LARGE, channels=(8, 8, 8, 16))

    def test_and_a_file_cannot_both_be_asked_for(self):
        with pytest.raises(ValueError, match="both pretrained and weights"):
            models.create("resnet18", pretrained=True, weights="x.safetensors", **LARGE)


class TestFile:
    """Weights of a file of one's own."""

    @pytest.mark.parametrize("name", sorted(NARROW))
    def test_that_a_training_wrote_fit_the_same_model_whatever_its_kind(self, name, tmp_path):
        source = build(name, size=32, channels=1)
        for each in source.parameters():
            each.data.add_(0.1)
        save_weights(source, tmp_path / "own.safetensors")
        model = build(name, size=32, channels=1, weights=tmp_path / "own.safetensors")
        assert_same(model, source)
        x, _ = batch(name, size=32, channels=1)
        assert torch.equal(model.eval()(x), source.eval()(x))
        found = models.origin(model)
        assert found["source"] == f"file:{tmp_path / 'own.safetensors'}"
        assert found["replaced"] == found["adapted"] == []
        digest = hashlib.sha256((tmp_path / "own.safetensors").read_bytes()).hexdigest()
        assert found["digest"] == f"sha256:{digest}"

    @pytest.mark.parametrize("name", ["resnet10-narrow", "mnist-cnn", "cnn-series"])
    def test_of_another_number_of_classes_keep_all_but_the_head_and_that_is_said(
        self, name, stored, caplog
    ):
        source = build(name, size=32)
        for each in source.parameters():
            each.data.add_(0.1)
        size = {"num_classes": 9, "in_chans": 3, "image_size": 32}
        with caplog.at_level(logging.INFO):
            model = models.create(name, **size, **NARROW[name], weights=stored(source))
        heads = models.origin(model)["replaced"]
        assert len(heads) == 2
        assert f"made anew: {', '.join(heads)}" in caplog.text
        assert_same(model, source, but=heads)
        assert model.get_submodule(heads[0].rpartition(".")[0]).out_features == 9

    def test_of_a_plain_stem_get_a_small_one_and_other_channels_are_fitted(self, stored):
        source = thin(num_classes=5)
        model = models.create("resnet18", **SMALL, **THIN, weights=stored(source))
        assert_same(model, source, but=["conv1.weight"])
        assert models.origin(model)["replaced"] == ["conv1.weight"]
        grey = models.create("resnet18", **{**LARGE, "in_chans": 1}, **THIN, weights=stored(source))
        torch.testing.assert_close(grey.conv1.weight, source.conv1.weight.sum(1, keepdim=True))
        assert models.origin(grey)["adapted"] == ["conv1.weight"]

    def test_of_another_image_size_are_fitted_by_timm(self, stored):
        source = thin("test_vit", num_classes=7)
        size = {"num_classes": 5, "in_chans": 3, "image_size": 64}
        model = models.create("test_vit", **size, weights=stored(source))
        assert torch.equal(model.blocks[0].attn.qkv.weight, source.blocks[0].attn.qkv.weight)
        assert models.origin(model)["replaced"] == ["head.weight", "head.bias"]

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"layer1.0.conv1.weight": None}, "missing: layer1.0.conv1.weight"),
            ({"extra": torch.zeros(1)}, "unexpected: extra"),
            ({"bn1.weight": torch.zeros(3)}, r"bn1.weight is \[3\], the model's \[64\]"),
            ({"fc.weight": torch.zeros(5, 9)}, r"fc.weight is \[5, 9\], the model's \[5, 8\]"),
        ],
    )
    def test_that_do_not_fit_are_refused_with_the_names_that_do_not(self, stored, change, said):
        path = stored(thin(num_classes=5), **change)
        with pytest.raises(ValueError, match=f"{re.escape(str(path))} does not fit.*{said}"):
            models.create("resnet18", **LARGE, **THIN, weights=path)

    def test_of_another_network_name_a_few_and_count_the_rest(self, stored):
        path = stored(build("mnist-cnn"))
        with pytest.raises(ValueError, match=r"missing: .* and \d+ more; unexpected: conv1.bias"):
            models.create("resnet18", **LARGE, **THIN, weights=path)

    @pytest.mark.parametrize("name", ["own.pth", "own.pt", "own.bin", "own"])
    def test_of_other_formats_are_refused_unread_and_can_be_converted(self, name, tmp_path):
        class Trap:
            def __reduce__(self):
                return (open, (str(tmp_path / "sprung"), "w"))

        torch.save({"fc.weight": Trap()}, tmp_path / name)
        with pytest.raises(ValueError, match=r"is no \.safetensors file.*convert one"):
            models.create("resnet18", **LARGE, weights=tmp_path / name)
        (tmp_path / name).rename(tmp_path / "renamed.safetensors")
        with pytest.raises(ValueError, match="is no whole safetensors file"):
            models.create("resnet18", **LARGE, weights=tmp_path / "renamed.safetensors")
        assert not (tmp_path / "sprung").exists()

    def test_that_are_cut_short_or_missing_are_named(self, stored, tmp_path):
        path = stored(thin())
        path.write_bytes(path.read_bytes()[:-5])
        with pytest.raises(ValueError, match="is no whole safetensors file"):
            models.create("resnet18", **LARGE, **THIN, weights=path)
        with pytest.raises(FileNotFoundError, match=r"no file at .*none\.safetensors"):
            models.create("resnet18", **LARGE, weights=tmp_path / "none.safetensors")


def test_random_weights_say_so():
    assert models.origin(build("mnist-cnn"))["source"] == "random"


def test_an_error_of_the_hub_is_said_in_one_line(monkeypatch):
    class Response:
        headers, status_code, request = {}, 500, None

    def download(*_):
        raise HfHubHTTPError("internal error\nand more", response=Response())

    monkeypatch.setattr(hub, "download", download)
    with pytest.raises(ValueError, match=r"cannot be had: internal error$"):
        models.create("resnet18", pretrained=True, **LARGE)
