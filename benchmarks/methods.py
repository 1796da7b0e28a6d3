"""Every method beside LCPDN: parameters, time and peak memory of a forward pass and a step.

Each method is built from its configuration in a process of its own, at one image size and batch, so
that its peak memory is its own. A step is forward, loss, backward and optimizer. Frozen backbones
are part of the time and of the frozen parameters. MGCC and MedSegDiff are left out, whose steps are
of other tasks; with ``--parameters`` each published method is counted instead, at its paper's size
and by every rule that published counts follow.

    python benchmarks/methods.py
    python benchmarks/methods.py --methods lcpdn textdiff --size 256 --batch 2
    python benchmarks/methods.py --parameters
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import torch
import yaml
from jsonargparse import ArgumentParser
from torch import Tensor, nn
from transformers import BertConfig, BertModel, BertTokenizer

from lcpdn_pl.backbones.catalogue import embedded
from lcpdn_pl.models import C2FVL, MGCC, LViT, MedSegDiff, Network, RecLMIS, UCTransNet
from lcpdn_pl.models.textdiff.fusion import TextDiffHead
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


@dataclass(frozen=True)
class Counts:
    """Numbers of trainable parameters, by four rules.

    Attributes:
        registered: All that the network has.
        reached: Those that get a gradient in a training step.
        leaves: As the package thop counts: of leaf layers of a known kind that an evaluation calls.
            Bare parameters, such as positions, and multi-head attention are left out.
        inference: Of all modules that an evaluation calls.
    """

    registered: int
    reached: int
    leaves: int
    inference: int


_KNOWN = (nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._NormBase, nn.LayerNorm)


def count(
    network: nn.Module, evaluate: Callable[[], object], train: Callable[[], Tensor]
) -> Counts:
    """Counts what trains.

    Args:
        network: The network.
        evaluate: A forward pass of it in eval mode.
        train: A forward pass in training, to whatever the loss is made of.
    """
    called: set[nn.Module] = set()
    hooks = [
        module.register_forward_hook(lambda module, _inputs, _output: called.add(module))
        for module in network.modules()
    ]
    network.eval()
    with torch.no_grad():
        evaluate()
    for hook in hooks:
        hook.remove()
    network.train()
    train().mean().backward()
    trained = [p for p in network.parameters() if p.requires_grad]
    leaves = [m for m in called if isinstance(m, _KNOWN) and not list(m.children())]
    # Multi-head attention takes its parts' weights without calling them.
    own = [list(m.parameters(isinstance(m, nn.MultiheadAttention))) for m in called]
    return Counts(
        registered=_total(trained),
        reached=_total([p for p in trained if p.grad is not None]),
        leaves=_total([p for leaf in leaves for p in leaf.parameters() if p.requires_grad]),
        inference=_total([p for part in own for p in part if p.requires_grad]),
    )


def _total(parameters: list[nn.Parameter]) -> int:
    return sum(p.numel() for p in set(parameters))


def text_encoder(width: int, folder: str) -> str:
    """A random BERT of one layer, of a text encoder's width in a paper; frozen, so not counted."""
    path = Path(folder, str(width))
    BertTokenizer.from_pretrained(embedded("minilm-l6").parent).save_pretrained(path)
    config = BertConfig(
        hidden_size=width, num_hidden_layers=1, num_attention_heads=8, intermediate_size=16
    )
    BertModel(config).save_pretrained(path)
    return str(path)


def counted(folder: str) -> Iterator[tuple[str, Counts]]:
    """Each published method at its paper's size, by name; RecLMIS as for QaTa-COV19.

    Where positions are not learned, images are small: convolutions have as many weights for any.

    Args:
        folder: Where text encoders may be written.
    """
    image, reports = torch.rand(2, 3, 224, 224), [REPORT] * 2
    family: dict[str, Callable[[], Network]] = {
        "uctransnet": UCTransNet,
        "lvit": lambda: LViT(text_encoder(768, folder)),
        "c2fvl": C2FVL,
        "reclmis": lambda: RecLMIS(text_encoder(512, folder)),
    }
    for name, build_network in family.items():
        network = build_network()
        evaluate = partial(network, image[:1], reports[:1])
        yield name, count(network, evaluate, partial(_loss, network, image, reports))
    for blocks, channels in (
        ("6 8 12 16", [1536, 1536, 768, 768]),
        ("4 6 8 12", [3072, 1536, 1536, 768]),
    ):
        head = TextDiffHead(channels, 768)
        scales = [torch.rand(2, c, 4, 4) for c in channels]
        evaluate = partial(head, scales, torch.rand(2, 10, 768), (8, 8))
        yield f"textdiff, blocks {blocks}", count(head, evaluate, evaluate)
    small = image[..., :64, :64]
    mgcc = MGCC()
    branches = partial(mgcc.branches, small)
    yield "mgcc", count(mgcc, partial(mgcc, small, reports), lambda: torch.stack(branches()))
    medsegdiff = MedSegDiff(steps=2, ensemble=1)

    def denoised() -> Tensor:
        anchors, score = medsegdiff.condition(small)
        return medsegdiff.denoise(small, anchors, small[:, :1], torch.tensor(500)) + score

    yield "medsegdiff", count(medsegdiff, partial(medsegdiff.sample, small), denoised)


def _loss(network: Network, image: Tensor, reports: list[str]) -> Tensor:
    logits, terms = network.training_forward(image, reports)
    return torch.stack([logits.mean(), *terms.values()])


# What the public code's training reaches, and what the paper states.
PUBLISHED = {
    "uctransnet": (66_430_657, "66.24 M, as leaves"),
    "lvit": (29_908_033, "29.71 M, as leaves"),
    "c2fvl": (24_196_088, "24.0 M, as leaves"),
    "reclmis": (60_677_951, "23.7 M, not reproduced"),
    "textdiff, blocks 6 8 12 16": (9_683_234, "9.68 M, as registered"),
    "textdiff, blocks 4 6 8 12": (10_862_882, "that of the other blocks"),
    "mgcc": (122_182_980, "122.18 M, as registered"),
    "medsegdiff": (129_400_450, "46.0 M, not reproduced"),
}


def print_parameters() -> None:
    """Prints our counts beside those of the public code and of the paper, in Markdown."""
    print(
        "| method | registered | reached | leaves | inference | public code reaches | published |"
    )
    print("|---|---|---|---|---|---|---|")
    with TemporaryDirectory() as folder:
        for name, found in counted(folder):
            wanted, published = PUBLISHED[name]
            numbers = [found.registered, found.reached, found.leaves, found.inference]
            verdict = "equal" if found.reached == wanted else f"off by {found.reached - wanted:,}"
            row = [name, *(f"{n:,}" for n in numbers), f"{wanted:,}, {verdict}"]
            print(f"| {' | '.join([*row, published])} |", flush=True)


def main() -> None:
    """Measures each method, or counts its parameters, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", default=methods(), choices=methods())
    parser.add_argument("--dataset", default="qata_cov19", help="whose configuration LCPDN gets")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--parameters", action="store_true", help="count, at the papers' sizes")
    parser.add_argument("--method", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.parameters:
        print_parameters()
        return
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
