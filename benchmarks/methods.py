"""Every method beside LCPDN: parameters, time and peak memory of a forward pass and a step.

Each method is built from its configuration in a process of its own, at one image size and batch, so
that its peak memory is its own. A step is forward, loss, backward and optimizer. Frozen backbones
are part of the time and of the frozen parameters.

    python benchmarks/methods.py
    python benchmarks/methods.py --methods lcpdn textdiff --size 256 --batch 2
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from jsonargparse import ArgumentParser

from lcpdn_pl.tasks import SegmentationTask

CONFIGS = Path(__file__).parents[1] / "configs"
REPORT = "Bilateral pulmonary infection, two infected areas, upper left lung and lower right lung."


def methods() -> list[str]:
    """LCPDN, and the overlays of networks that one forward pass trains and applies."""
    overlays = sorted(CONFIGS.joinpath("methods").glob("*.yaml"))
    tasks = {o.stem: yaml.safe_load(o.read_text())["model"]["class_path"] for o in overlays}
    return ["lcpdn", *(name for name, task in tasks.items() if task == "SegmentationTask")]


def build(method: str, dataset: str, size: int) -> SegmentationTask:
    """The task of a method as its configurations describe it, at another image size."""
    parser = ArgumentParser()
    parser.add_subclass_arguments(SegmentationTask, "model")
    overlay = CONFIGS / "methods" / f"{method}.yaml"
    files = [CONFIGS / f"{dataset}.yaml", *([overlay] if overlay.exists() else [])]
    config = None
    for file in files:
        model: dict[str, Any] = yaml.safe_load(file.read_text())["model"]
        config = parser.parse_object({"model": model}, cfg_base=config)
    assert config is not None  # noqa: S101 - there is always the data's file
    arguments = config.model.init_args.network.init_args
    if "image_size" in arguments:
        arguments.image_size = size
    task: SegmentationTask = parser.instantiate_classes(config).model
    return task


def memory(field: str) -> float:
    """GiB that Linux gives for this process: VmRSS now, VmHWM at its highest."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith(field))
    return int(line.split()[1]) / 2**20


def seconds(run: Callable[[], object], repeats: int) -> float:
    """The fastest of several calls, after one that warms up."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measures one method in this process."""
    torch.manual_seed(0)
    task = build(options.method, options.dataset, options.size)
    trainable, frozen = task.network.count_parameters()
    generator = torch.Generator().manual_seed(0)
    shape = (options.batch, 3, options.size, options.size)
    image = torch.rand(shape, generator=generator) * 2 - 1
    batch: Any = {
        "image": image,
        "mask": (image[:, 0] > 0).long(),
        "text": [REPORT] * options.batch,
        "name": [str(index) for index in range(options.batch)],
    }
    optimizer = torch.optim.Adam(p for p in task.parameters() if p.requires_grad)
    built = memory("VmRSS")

    def forward() -> None:
        with torch.inference_mode():
            task(batch["image"], batch["text"])

    def step() -> None:
        optimizer.zero_grad()
        task.training_terms(batch)[1]["loss"].backward()
        optimizer.step()

    task.eval()
    result = {"method": options.method, "trainable": trainable, "frozen": frozen}
    result["forward s"] = seconds(forward, options.repeats)
    result["forward GiB"] = memory("VmHWM") - built
    task.train()
    result["step s"] = seconds(step, options.repeats)
    result["step GiB"] = memory("VmHWM") - built
    return result


def main() -> None:
    """Measures each method and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", default=methods(), choices=methods())
    parser.add_argument("--dataset", default="qata_cov19", help="whose configuration LCPDN gets")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--method", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.method:
        print(json.dumps(measure(options)))
        return
    print(f"{torch.get_num_threads()} threads, batch of {options.batch} at {options.size} px")
    rows: list[dict[str, Any]] = []
    for method in options.methods:
        output = subprocess.run(  # noqa: S603 - this script itself
            [sys.executable, *sys.argv, f"--method={method}"],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
        row = json.loads(output.splitlines()[-1])
        base = rows[0] if rows else row
        row["forward ratio"] = row["forward s"] / base["forward s"]
        row["step ratio"] = row["step s"] / base["step s"]
        rows.append(row)
        print(pd.DataFrame(rows).to_string(index=False, float_format="%.3g"), flush=True)


if __name__ == "__main__":
    main()
