"""Checks that need a GPU: no step synchronises with the host, and GPU and CPU trainings agree."""

import csv
from datetime import date
from pathlib import Path

import torch

from attrreg import method, models
from attrreg.data.device import TrainingSet
from attrreg.data.sources import digits
from attrreg.evaluation.predict import predict
from attrreg.provenance import stream_seed
from attrreg.recipe import Recipe
from attrreg.state import State
from attrreg.training.engine import Streams, train

RESULTS = Path(__file__).parent / "results"


def synchronises(name: str, device: torch.device) -> str:
    """Say what in a step of a method waits for the GPU, "no" if nothing does."""
    model = models.create("resnet10-narrow", num_classes=10, in_chans=1, image_size=8).to(device)
    x = torch.randn(32, 1, 8, 8, device=device)
    y = torch.randint(10, (32,), device=device)
    made = method.create(name)
    stream = torch.Generator(device).manual_seed(0)
    state = State(
        generator=torch.Generator(device).manual_seed(1),
        indices=torch.arange(32),
        size=32,
        region=torch.rand(32, 8, 8, device=device),
        memory={},
    )
    made.loss(model, x, y, generator=stream, state=state).total.backward()  # warm up
    torch.cuda.synchronize(device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        made.loss(model, x, y, generator=stream, state=state).total.backward()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return "no"


def accuracy(name: str, device: torch.device) -> float:
    """Return the test accuracy of a method trained on 200 digits on a device."""
    splits = digits()
    scaled = splits.pool.x / 255
    mean, deviation = scaled.mean((0, 2, 3)).astype("f4"), scaled.std((0, 2, 3)).astype("f4")
    data = TrainingSet.on(device, splits.pool.x[:200], splits.pool.y[:200], mean, deviation)
    torch.manual_seed(0)
    model = models.create("resnet10-narrow", num_classes=10, in_chans=1, image_size=8).to(device)
    streams = Streams.seeded(lambda stream: stream_seed(stream, 0), device)
    train(model, method.create(name), data, Recipe(steps=300), streams)
    held_out = TrainingSet.on(device, splits.test.x, splits.test.y, mean, deviation)
    x, y = held_out.batch(torch.arange(len(held_out.y), device=device))
    return float((predict(model, x).argmax(1) == y).float().mean())


def main() -> None:
    """Run both checks for every method and write one table."""
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    rows = []
    for name in method.names():
        row = {"method": name, "synchronises": synchronises(name, gpu)}
        if "/" not in name:
            row |= {"accuracy_gpu": accuracy(name, gpu), "accuracy_cpu": accuracy(name, cpu)}
        row |= {
            "device": torch.cuda.get_device_name(gpu),
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
