"""Checks that need a GPU: no step synchronises with the host, and all ways to train agree.

Of every method: whether a step waits for the GPU; whether steps are captured in a CUDA graph, and
how far the losses then are from those of eager steps, relative to them; whether two deterministic
trainings, and one whose data stream, end with the same bits; the accuracies of a GPU and of a CPU.
"""

import csv
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attrreg import method, models
from attrreg.data.device import TrainingSet
from attrreg.data.prepare import read_embedded
from attrreg.evaluation.predict import predict
from attrreg.machine import use_deterministic
from attrreg.provenance import array_digest, stream_seed
from attrreg.recipe import Augmentation, Recipe
from attrreg.state import State
from attrreg.training.engine import Streams, Training

RESULTS = Path(__file__).parent / "results"
GPU, CPU = torch.device("cuda"), torch.device("cpu")


def synchronises(name: str) -> str:
    """Say what in a step of a method waits for the GPU, "no" if nothing does."""
    model = models.create("resnet10-narrow", num_classes=10, in_chans=1, image_size=8).to(GPU)
    x = torch.randn(32, 1, 8, 8, device=GPU)
    y = torch.randint(10, (32,), device=GPU)
    made = method.create(name)
    stream = torch.Generator(GPU).manual_seed(0)
    state = State(
        generator=torch.Generator(GPU).manual_seed(1),
        indices=torch.arange(32),
        size=32,
        region=torch.rand(32, 8, 8, device=GPU),
        memory={},
    )
    made.loss(model, x, y, generator=stream, state=state).total.backward()  # warm up
    torch.cuda.synchronize(GPU)
    torch.cuda.set_sync_debug_mode("error")
    try:
        made.loss(model, x, y, generator=stream, state=state).total.backward()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return "no"


def trained(name: str, device: torch.device, steps: int, **options: Any) -> Training:
    """Return a training of a method on 200 digits that has ended."""
    splits, streams_data = read_embedded("digits"), options.pop("streams", False)
    data = TrainingSet.on(
        device, splits.pool.take(np.arange(200)), *_statistics(), streams=streams_data
    )
    torch.manual_seed(0)
    model = models.create("resnet10-narrow", num_classes=10, in_chans=1, image_size=8).to(device)
    streams = Streams.seeded(lambda stream: stream_seed(stream, 0), device)
    recipe = Recipe(steps=steps, augmentation=Augmentation(crop_padding=1))
    training = Training(model, method.create(name), data, recipe, streams, **options)
    training.run()
    return training


def weights(training: Training) -> str:
    """Return what stands for all weights and buffers."""
    return array_digest(*(each.cpu().numpy() for each in training.model.state_dict().values()))


def accuracy(training: Training) -> float:
    """Return the accuracy on the test digits."""
    splits, device = read_embedded("digits"), training.data.y.device
    held_out = TrainingSet.on(device, splits.test, *_statistics())
    x, y = held_out.batch(torch.arange(len(held_out), device=device))
    return float((predict(training.model, x).argmax(1) == y).float().mean())


def _statistics() -> tuple[np.ndarray, np.ndarray]:
    scaled = read_embedded("digits").pool.x / 255
    return scaled.mean((0, 2, 3)).astype("f4"), scaled.std((0, 2, 3)).astype("f4")


def ways(name: str) -> dict[str, Any]:
    """Compare the ways to train a method."""
    use_deterministic(True, "float32")
    eager, again = (trained(name, GPU, 30, capture=False) for _ in range(2))
    streamed = trained(name, GPU, 30, capture=False, streams=True)
    replayed, mixed = trained(name, GPU, 30), trained(name, GPU, 30, precision="bfloat16")
    expected, found, rough = (
        np.array([row["loss"] for row in each.history]) for each in (eager, replayed, mixed)
    )
    use_deterministic(False, "float32")
    return {
        "capture": replayed.capture,
        "capture_bfloat16": mixed.capture,
        "captured_difference": float(np.abs(found / expected - 1).max()),
        "bfloat16_difference": float(np.abs(rough / expected - 1).max()),
        "deterministic": weights(eager) == weights(again),
        "streamed_is_same": weights(eager) == weights(streamed),
        "accuracy_gpu": accuracy(trained(name, GPU, 300)),
        "accuracy_cpu": accuracy(trained(name, CPU, 300)),
    }


def main() -> None:
    """Run all checks for every method and write one table."""
    rows = []
    for name in method.names():
        row = {"method": name, "synchronises": synchronises(name)}
        if "/" not in name:
            row |= ways(name)
        row |= {
            "device": torch.cuda.get_device_name(GPU),
            "torch": torch.__version__,
            "date": date.today().isoformat(),
        }
        print(row, flush=True)
        rows.append(row)
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / "gpu_checks.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
