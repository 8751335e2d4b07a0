"""`attrreg explain`: where inputs and weights come from, what is said of them, what is refused."""

import re
import shutil
import struct
import zlib

import numpy as np
import pytest
import torch
from experiments import command, prepare_data, written
from PIL import Image
from safetensors.torch import load_file

from attrreg import explain as explaining
from attrreg import models
from attrreg.attribution import UnsupportedOperation
from attrreg.data.prepare import read_embedded
from attrreg.explain import Request, explain, read_image

NARROW = {"name": "narrower", "base": "resnet10-narrow", "options": {"channels": [8, 8, 8, 8]}}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with prepared digits and a trained experiment of two models."""
    folder = tmp_path_factory.mktemp("place")
    data = prepare_data(folder / "data")
    changes = {"grid.methods": ["baseline"], "grid.models": ["resnet10-narrow", NARROW]}
    config = written(folder, changes | {"recipe.steps": 2})
    for step in (["train", "--data", data], ["collect"]):
        answer = command(*step, "--config", config, "--results", folder / "results")
        assert answer.code == 0, answer.err
    return folder


def run_of(place, model="resnet10-narrow"):
    return place / f"results/tiny/runs/digits/{model}/baseline/n20/s1"


def ask(place, **changes):
    """Explain the digits by a rule that every model supports."""
    request = {"model": "resnet10-narrow", "dataset": "digits", "rules": ["gradient-x-input"]}
    return explain(Request(**request | {"data": place / "data"} | changes))


def trained(place, model="resnet10-narrow", **options):
    """Return the model of a run, put together by hand."""
    built = models.create("resnet10-narrow", num_classes=10, in_chans=1, image_size=8, **options)
    built.load_state_dict(load_file(run_of(place, model) / "weights.safetensors"))
    return built.eval()


def normalised(x):
    """Return uint8 digits as the models see them; mean and deviation are those of the pool."""
    pool = read_embedded("digits").pool.x.astype("float64") / 255
    return torch.from_numpy((x / 255.0 - pool.mean()) / pool.std()).float()


@pytest.fixture
def picture(tmp_path):
    """A picture of 60 × 40 pixels: red on the left, green in the middle, blue on the right."""
    pixels = np.zeros((40, 60, 3), dtype=np.uint8)
    for number in range(3):
        pixels[:, 20 * number : 20 * (number + 1), number] = 255
    path = tmp_path / "flag.png"
    Image.fromarray(pixels).save(path)
    return path


class TestPictures:
    """Files become arrays, or one line that names the file."""

    def test_the_centre_is_cropped_and_scaled(self, picture):
        image = read_image(picture, 3, 8)
        assert (image.shape, image.dtype) == ((3, 8, 8), np.uint8)
        # the centre is 40 × 40, of which green has the inner half
        assert image[:, 4, 0].tolist() == [255, 0, 0]
        assert image[:, 4, 4].tolist() == [0, 255, 0]
        assert image[:, 4, 7].tolist() == [0, 0, 255]

    def test_grey_has_the_luma_of_the_colours(self, picture):
        image = read_image(picture, 1, 8)
        assert image.shape == (1, 8, 8)
        assert image[0, 4, [0, 4, 7]].tolist() == pytest.approx([76, 150, 29], abs=3)

    def test_what_is_transparent_is_white(self, tmp_path):
        pixels = np.zeros((4, 4, 4), dtype=np.uint8)
        pixels[:2, :, 3] = 255
        Image.fromarray(pixels).save(tmp_path / "half.png")
        image = read_image(tmp_path / "half.png", 3, 4)
        assert image[:, 0].max() == 0
        assert image[:, 3].min() == 255

    def test_sixteen_bits_keep_their_range(self, tmp_path):
        pixels = np.array([[0, 257 * 100], [257 * 200, 65535]], dtype=np.uint16)
        Image.fromarray(pixels).save(tmp_path / "deep.png")
        assert read_image(tmp_path / "deep.png", 1, 2)[0].tolist() == [[0, 100], [200, 255]]

    def test_the_orientation_of_a_camera_is_heeded(self, tmp_path):
        pixels = np.zeros((8, 8), dtype=np.uint8)
        pixels[:4] = 255
        image = Image.fromarray(pixels)
        exif = image.getexif()
        exif[0x0112] = 6  # turn by a quarter, clockwise
        image.save(tmp_path / "turned.png", exif=exif)
        turned = read_image(tmp_path / "turned.png", 1, 8)[0]
        assert turned[:, 7].min() == 255
        assert turned[:, 0].max() == 0

    @pytest.mark.parametrize("content", ["cut", "text", "empty", "gif"])
    def test_what_is_no_picture_is_named(self, content, picture, tmp_path):
        path = tmp_path / "broken.png"
        if content == "gif":
            Image.open(picture).save(path, format="GIF")
        else:
            whole = picture.read_bytes()
            path.write_bytes({"cut": whole[:100], "text": b"no picture", "empty": b""}[content])
        with pytest.raises(ValueError, match=r"broken\.png cannot be read") as caught:
            read_image(path, 3, 8)
        assert "\n" not in str(caught.value)

    def test_a_folder_and_a_missing_file_are_named(self, tmp_path):
        with pytest.raises(ValueError, match="cannot be read"):
            read_image(tmp_path, 3, 8)
        with pytest.raises(FileNotFoundError, match=r"no image at .*cat\.png"):
            read_image(tmp_path / "cat.png", 3, 8)

    @pytest.mark.parametrize("side", [10_000, 100_000])
    def test_a_decompression_bomb_is_refused_unopened(self, side, tmp_path):
        def chunk(name, content):
            checksum = struct.pack(">I", zlib.crc32(name + content))
            return struct.pack(">I", len(content)) + name + content + checksum

        head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        path = tmp_path / "bomb.png"
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b""))
        with pytest.raises(ValueError, match=r"bomb\.png is refused: .*pixels"):
            read_image(path, 3, 8)


class TestNumbers:
    """Maps, sums and outputs against a calculation by hand."""

    def test_a_run_is_explained_with_its_own_weights(self, place):
        sheet = explain(
            Request(
                run=run_of(place),
                rules=["gradient", "gradient-x-input", "lrp-0"],
                samples=12,
                data=place / "data",
            )
        )
        held_out = read_embedded("digits").validation
        numbers = [int(name.removeprefix("validation ")) for name in sheet.names]
        assert len(set(numbers)) == 12
        assert sheet.inputs == pytest.approx(held_out.x[numbers] / 255)
        assert sheet.labels.tolist() == held_out.y[numbers].tolist()
        assert np.bincount(sheet.labels).min() == 1  # twelve of ten classes

        x = normalised(held_out.x[numbers]).requires_grad_()
        y = torch.from_numpy(sheet.labels)
        logits = trained(place)(x)
        explained = logits.gather(1, y[:, None])[:, 0]
        gradient = torch.autograd.grad(explained.sum(), x)[0]
        product = (gradient * x).detach()
        assert sheet.outputs == pytest.approx(explained.detach().numpy(), rel=1e-4, abs=1e-6)
        assert sheet.predictions.tolist() == logits.argmax(1).tolist()
        assert sheet.confidences == pytest.approx(
            logits.detach().softmax(1).amax(1).numpy(), rel=1e-4
        )
        slope, times, layers = sheet.columns
        scale = float(gradient.abs().max())
        assert slope.maps == pytest.approx(gradient.sum(1).numpy(), abs=1e-4 * scale)
        assert not slope.is_share
        assert times.maps == pytest.approx(product.sum(1).numpy(), abs=1e-4 * scale)
        assert times.absorbed is None
        total = layers.maps.sum((1, 2)) + layers.absorbed
        assert total == pytest.approx(sheet.outputs, rel=1e-3, abs=1e-4)

    def test_channels_are_summed(self, picture):
        sheet = explain(
            Request(
                model="resnet10-narrow", images=[picture], image_size=12, rules=["gradient-x-input"]
            )
        )
        [column] = sheet.columns
        assert sheet.inputs.shape == (1, 3, 12, 12)
        assert column.maps.shape == (1, 12, 12)

    def test_own_images_are_explained_by_the_prediction_and_normalised_as_the_dataset(
        self, place, tmp_path
    ):
        pixels = read_embedded("digits").validation.x[5, 0]
        Image.fromarray(pixels).save(tmp_path / "five.png")
        sheet = explain(
            Request(run=run_of(place), images=[tmp_path / "five.png"], data=place / "data")
        )
        assert sheet.names == ("five.png",)
        assert sheet.labels is None
        logits = trained(place)(normalised(pixels[None, None])).detach()
        assert sheet.explained.tolist() == sheet.predictions.tolist() == logits.argmax(1).tolist()
        assert sheet.outputs == pytest.approx(logits.amax(1).numpy(), rel=1e-4)

    def test_the_explained_class_can_be_chosen(self, place):
        label, prediction, third = (
            ask(place, samples=10, explained=each) for each in ("label", "prediction", "3")
        )
        assert (
            label.explained.tolist()
            == label.labels.tolist()
            == ask(place, samples=10).explained.tolist()
        )
        assert prediction.explained.tolist() == prediction.predictions.tolist()
        assert third.explained.tolist() == [3] * 10
        assert (prediction.outputs >= third.outputs).all()

    def test_a_model_of_the_experiments_own_is_found(self, place):
        sheet = explain(Request(run=run_of(place, "narrower"), samples=2, data=place / "data"))
        numbers = [int(name.removeprefix("validation ")) for name in sheet.names]
        model = trained(place, "narrower", channels=(8, 8, 8, 8))
        logits = model(normalised(read_embedded("digits").validation.x[numbers])).detach()
        assert sheet.predictions.tolist() == logits.argmax(1).tolist()
        assert sheet.title.startswith("narrower, trained by Baseline on 20 samples of digits")

    def test_weights_can_come_from_a_file(self, place):
        weights = run_of(place) / "weights.safetensors"
        assert ask(place, weights=weights).outputs == pytest.approx(
            explain(Request(run=run_of(place), data=place / "data")).outputs
        )

    def test_random_weights_are_always_the_same_and_disturb_no_random_numbers(self, place):
        torch.manual_seed(0)
        before = torch.get_rng_state()
        one, other = ask(place), ask(place)
        assert torch.equal(torch.get_rng_state(), before)
        assert one.outputs.tolist() == other.outputs.tolist()
        assert "untrained" in one.title

    def test_a_batch_border_changes_nothing(self, place):
        many, few = ask(place, samples=11, rules=["lrp-0"]), ask(place, samples=3, rules=["lrp-0"])
        assert many.names[:3] == few.names
        scale = float(np.abs(few.columns[0].maps).max())
        assert many.columns[0].maps[:3] == pytest.approx(few.columns[0].maps, abs=1e-4 * scale)


class TestRules:
    """Every rule is a column, in the order given and once."""

    def test_the_box_is_black_to_white_as_the_model_sees_them(self, place, monkeypatch):
        seen = []

        def refuse(model, x, target, rule):
            seen.append(rule)
            raise UnsupportedOperation("not here")

        monkeypatch.setattr(explaining, "ledger", refuse)
        [column] = ask(place, rules=["z-box"]).columns
        assert column.maps is None
        pool = read_embedded("digits").pool.x / 255.0
        [rule] = seen
        assert rule.low == pytest.approx([(0 - pool.mean()) / pool.std()], rel=1e-5)
        assert rule.high == pytest.approx([(1 - pool.mean()) / pool.std()], rel=1e-5)

    def test_a_refusal_is_a_reason_and_the_others_are_explained(self, place, monkeypatch):
        def refuse(model, x, target, rule):
            raise UnsupportedOperation("torch.fold\n has no rule")

        monkeypatch.setattr(explaining, "ledger", refuse)
        first, second = ask(place, rules=["lrp-0", "gradient", "lrp-0"]).columns
        assert (first.rule, first.maps, first.reason) == ("lrp-0", None, "torch.fold has no rule")
        assert second.maps is not None

    def test_what_another_library_refuses_is_a_reason_too(self, place, monkeypatch):
        def refuse(model, x, target, rule):
            assert rule.name == "captum:LRP"
            raise TypeError("Module of type Flatten has no rule")

        monkeypatch.setattr(explaining, "relevance", refuse)
        [column] = ask(place, rules=["captum:LRP"]).columns
        assert column.reason == "Module of type Flatten has no rule"

    def test_other_libraries_are_asked(self, place):
        ours, theirs = ask(place, rules=["gradient", "captum:Saliency"]).columns
        assert theirs.maps == pytest.approx(ours.maps, abs=1e-5)
        assert not theirs.is_share


class TestCommand:
    """What is printed and written, and that the same call gives the same bytes."""

    @pytest.mark.parametrize("kind", ["svg", "png"])
    def test_the_same_call_gives_the_same_sheet(self, kind, place, tmp_path):
        answers = []
        for name in "ab":
            answer = command(
                *("explain", "--model", "resnet10-narrow", "--dataset", "digits", "--samples", 2),
                *("--rule", "lrp-0", "--rule", "gradient", "--data", place / "data"),
                *("--output", tmp_path / f"{name}.{kind}"),
            )
            assert answer.code == 0, answer.err
            answers.append(answer.out.replace(f"{name}.{kind}", ""))
        assert answers[0] == answers[1]
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()
        assert len(list(tmp_path.iterdir())) == 2
        lines = answers[0].splitlines()
        assert "untrained" in lines[0]
        assert lines[1].split()[:2] == ["input", "label"]
        assert len([line for line in lines if line.startswith("validation ")]) == 4
        if kind == "svg":
            drawn = (tmp_path / "a.svg").read_text()
            assert "untrained" in drawn
            [total] = re.findall(r"^validation \d+ .*lrp-0 +(\S+) +", answers[0], re.M)[:1]
            assert f"Σ {total} of".replace("-", "−") in drawn

    def test_a_refused_rule_is_drawn_and_said(self, place, tmp_path, monkeypatch):
        def refuse(model, x, target, rule):
            raise UnsupportedOperation("torch.fold of layer1 has no rule")

        monkeypatch.setattr(explaining, "ledger", refuse)
        answer = command(
            *("explain", "--run", run_of(place), "--rule", "lrp-0", "--rule", "gradient"),
            *("--data", place / "data", "--output", tmp_path / "sheet.svg"),
        )
        assert answer.code == 0, answer.err
        assert "not supported by lrp-0: torch.fold of layer1 has no rule" in answer.out
        assert "untrained" not in answer.out
        assert "supported" in (tmp_path / "sheet.svg").read_text()


ASKED = ("--model", "resnet10-narrow", "--dataset", "digits")
REFUSED = {
    "no model": (["--dataset", "digits"], "give --model NAME or --run DIRECTORY"),
    "no inputs": (["--model", "resnet18"], "give --image FILE, --dataset NAME or --run"),
    "unknown model": (["--model", "resnet81", "--dataset", "digits"], "unknown model 'resnet81'"),
    "unknown dataset": (["--model", "resnet18", "--dataset", "digit"], "did you mean 'digits'"),
    "unknown rule": ([*ASKED, "--rule", "lpr-0"], "unknown relevance rule 'lpr-0'"),
    "unknown rule elsewhere": (
        [*ASKED, "--rule", "captum:Salience"],
        "unknown rule of captum 'Salience'.* did you mean 'Saliency'",
    ),
    "class beyond the last": ([*ASKED, "--explain", "10"], "class from 0 to 9"),
    "class that is none": ([*ASKED, "--explain", "-1"], "'label', 'prediction' or a class"),
    "labels of own images": (
        ["--model", "resnet10-narrow", "--image", "{picture}", "--explain", "label"],
        "images of your own have none",
    ),
    "more samples than there are": ([*ASKED, "--samples", "361"], "split of 'digits' has 360"),
    "another size": ([*ASKED, "--image-size", "9"], "--image-size is 9, .* has 8"),
    "other classes": ([*ASKED, "--num-classes", "9"], "--num-classes is 9, .* has 10"),
    "weights twice": ([*ASKED, "--pretrained", "--weights", "{picture}"], "one of them only"),
    "weights of an unknown width": (
        ["--model", "resnet18", "--image", "{picture}", "--weights", "{picture}"],
        "give --num-classes",
    ),
    "weights that are none": ([*ASKED, "--weights", "{picture}"], "holds no weights"),
    "weights of another model": (
        ["--model", "resnet18", "--dataset", "digits", "--weights", "{weights}"],
        "holds no weights of this model",
    ),
    "pretrained on other classes": ([*ASKED, "--pretrained"], "classes of their own"),
    "pretrained where nothing is": (
        ["--model", "resnet10-narrow", "--pretrained", "--image", "{picture}"],
        "no pretrained weights of 'resnet10-narrow'",
    ),
    "pretrained and small": (
        ["--model", "resnet18", "--pretrained", "--image", "{picture}", "--image-size", "64"],
        "untrained one",
    ),
    "an image that the model cannot take": (
        ["--model", "convnext_atto", "--image", "{picture}", "--image-size", "16"],
        "'convnext_atto' does not take inputs of shape",
    ),
    "no prepared data": ([*ASKED, "--data", "{empty}"], "attrreg prepare --dataset digits"),
    "a run and a model": (["--run", "{run}", "--model", "resnet18"], "none of them beside it"),
    "a run that is not there": (["--run", "{run}0"], "no run at"),
    "a folder that is no run": (["--run", "{empty}"], "is no run"),
    "a file that is no run": (["--run", "{picture}"], "is no run"),
    "a folder of runs": (["--run", "{run}/.."], "is no run"),
    "an output of unknown kind": ([*ASKED, "--output", "sheet.gif"], r"\.svg, \.png, \.pdf"),
    "an output over an input": (
        ["--model", "resnet18", "--image", "{picture}", "--output", "{picture}"],
        "is one of the images",
    ),
}


class TestRefusals:
    """One line that says what was found and what to do; nothing is written."""

    @staticmethod
    def refused(answer):
        assert answer.code == 2
        assert answer.err.startswith("attrreg: ")
        assert answer.err.count("\n") == 1
        assert answer.out == ""
        return answer.err

    @pytest.mark.parametrize("name", REFUSED)
    def test_a_request_that_cannot_be_met(self, name, place, picture, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "empty").mkdir()
        arguments, said = REFUSED[name]
        places = {
            "picture": picture,
            "run": run_of(place),
            "weights": run_of(place) / "weights.safetensors",
            "empty": tmp_path / "empty",
        }
        given = ["explain", *(each.format(**places) for each in arguments)]
        if "--data" not in given:
            given += ["--data", place / "data"]
        before = picture.read_bytes()
        assert re.search(said, self.refused(command(*given)))
        assert picture.read_bytes() == before
        assert {path.name for path in tmp_path.iterdir()} == {"flag.png", "empty"}

    def test_a_failed_run_says_why(self, place, tmp_path):
        rates = {"recipe.optimizer": {"name": "sgd", "learning_rate": 1e30}, "recipe.steps": 6}
        config = written(tmp_path, rates | {"grid.methods": ["baseline"]})
        command("train", "--config", config, "--results", tmp_path, "--data", place / "data")
        failed = tmp_path / "tiny/runs/digits/resnet10-narrow/baseline/n20/s0"
        assert re.search("has failed .Diverged", self.refused(command("explain", "--run", failed)))

    def test_a_run_with_a_model_of_its_own_needs_nothing_beside_its_record(self, place, tmp_path):
        alone = tmp_path / "moved"
        shutil.copytree(run_of(place, "narrower"), alone)
        target = tmp_path / "sheet.png"
        options = ("--data", place / "data", "--output", target)
        assert command("explain", "--run", alone, *options).code == 0
        assert target.stat().st_size > 0

    def test_weights_cut_short_are_named(self, place, tmp_path):
        run = tmp_path / "s1"
        shutil.copytree(run_of(place), run)
        whole = (run / "weights.safetensors").read_bytes()
        (run / "weights.safetensors").write_bytes(whole[:-9])
        said = self.refused(command("explain", "--run", run, "--data", place / "data"))
        assert "weights.safetensors holds no weights of this model" in said

    def test_pretrained_weights_that_cannot_be_fetched(self, picture, monkeypatch):
        def create(*_, **__):
            raise OSError("no\nnetwork")

        monkeypatch.setattr(models, "create", create)
        answer = command("explain", "--model", "resnet18", "--pretrained", "--image", picture)
        assert "cannot be had: no network" in self.refused(answer)
