"""Diffusion features the plain way and ours: time, memory and share of the machine's peak.

The plain way runs the whole UNet, one timestep after the other, with hooks that keep every decoder
block's output, and selects afterwards. Ours is ``DiffusionFeatures``. Each case is a process of its
own with the same weights and image, so that its peak memory is its own. ``difference`` is the
largest one of any output or gradient, relative to the largest value there.

    python benchmarks/diffusion_features.py lcpdn-ddpm-small
    python benchmarks/diffusion_features.py benchmarks/adm256.json --passes forward

``adm256.json`` is the architecture of guided-diffusion's ``256x256_diffusion_uncond.pt`` with its
552,814,086 parameters, here with random weights.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from diffusers import UNet2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from lcpdn_pl.backbones.denoisers import create_denoiser
from lcpdn_pl.backbones.diffusion import ALPHA_BAR, DiffusionFeatures

STEPS = (50, 150, 250)
BLOCKS = ((4, 6, 8, 12), (6, 8, 12, 16))
# Options of DiffusionFeatures for each way but the plain one.
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "ours": {},
    "ours, checkpointed": {"gradient_checkpointing": True},
    "ours, checkpointed, step by step": {"gradient_checkpointing": True, "step_batch": 1},
    "ours, compiled": {"compile": True},
}


def plain(
    unet: UNet2DModel, blocks: Sequence[int], image: Tensor, prompt: Tensor | None
) -> list[Tensor]:
    """The whole UNet for each timestep, hooks on every decoder block, all outputs kept."""
    kept: list[Tensor] = []
    handles = []
    for level in unet.up_blocks:
        attentions = getattr(level, "attentions", [None] * len(level.resnets))
        ends = [a or r for a, r in zip(attentions, level.resnets, strict=True)]
        if level.upsamplers:
            ends[-1] = level.upsamplers[-1]
        handles += [
            end.register_forward_hook(lambda _m, _i, output: kept.append(output)) for end in ends
        ]
    if prompt is not None:
        unet.class_embedding = torch.nn.Identity()
        unet.config["class_embed_type"] = "identity"
    patch = round((unet.config.in_channels // 3) ** 0.5)
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    steps = []
    for step in STEPS:
        kept.clear()
        rate = ALPHA_BAR[step]
        noised = rate.sqrt() * image + (1 - rate).sqrt() * noise
        unet(F.pixel_unshuffle(noised, patch), step, class_labels=prompt)
        steps.append(list(kept))
    for handle in handles:
        handle.remove()
    return [torch.cat([step[block] for step in steps], dim=1) for block in blocks]


def memory(field: str) -> float:
    """GiB that Linux gives for this process: VmRSS now, VmHWM at its highest."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith(field))
    return int(line.split()[1]) / 2**20


def measure(case: argparse.Namespace) -> dict[str, float]:
    """Runs one case in this process."""
    torch.manual_seed(0)
    unet = create_denoiser(case.denoiser)[0].eval().requires_grad_(False)
    image = torch.rand(1, 3, case.size, case.size) * 2 - 1
    width = unet.time_embedding.linear_2.out_features
    prompt = 0.1 * torch.randn(1, width) if case.direction == "backward" else None
    blocks = BLOCKS[case.blocks]
    run: Callable[[], list[Tensor]]
    if case.way == "plain":
        run = lambda: plain(unet, blocks, image, prompt)  # noqa: E731
    else:
        features = DiffusionFeatures(unet, blocks, STEPS, **WAYS[case.way])
        del unet
        run = lambda: features(image, prompt)  # noqa: E731

    def once() -> list[Tensor]:
        if prompt is None:
            with torch.no_grad():
                return run()
        prompt.requires_grad_(True)
        prompt.grad = None
        outputs = run()
        torch.stack([output.square().mean() for output in outputs]).sum().backward()
        return [output.detach() for output in outputs] + [prompt.grad]

    weights = memory("VmRSS")
    if case.warm:
        once()
    start = time.perf_counter()
    for _ in range(case.repeats):
        outputs = once()
    seconds = (time.perf_counter() - start) / case.repeats
    peak = memory("VmHWM")
    with FlopCounterMode(display=False) as counter:
        once() if case.count_flops else None
    save_file({str(i): o.contiguous() for i, o in enumerate(outputs)}, case.outputs)
    return {
        "seconds": seconds,
        "peak": peak,
        "above_weights": peak - weights,
        "flops": float(counter.get_total_flops()),
    }


def machine_peak() -> float:
    """GFLOP/s of the fastest of a matrix product and two convolutions, in single precision."""
    best = 0.0
    a, b = torch.randn(2, 3072, 3072)
    x, w = torch.randn(3, 128, 64, 64), torch.randn(128, 128, 3, 3)
    y, v = torch.randn(3, 512, 32, 32), torch.randn(512, 512, 3, 3)
    cases: list[tuple[Callable[[], Tensor], float]] = [
        (lambda: a @ b, 2 * 3072**3),
        (lambda: F.conv2d(x, w, padding=1), 2 * x[:, 0].numel() * w.numel()),
        (lambda: F.conv2d(y, v, padding=1), 2 * y[:, 0].numel() * v.numel()),
    ]
    for run, flops in cases:
        run()
        for _ in range(8):
            start = time.perf_counter()
            run()
            best = max(best, flops / (time.perf_counter() - start) / 1e9)
    return best


def main() -> None:
    """Measures every case and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("denoiser", help="as the option `denoiser` takes them")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cold", dest="warm", action="store_false", help="no warm-up pass")
    parser.add_argument("--ways", nargs="+", default=[*WAYS][:4], choices=WAYS)
    parser.add_argument("--passes", nargs="+", default=["forward", "backward"])
    parser.add_argument("--no_flops", dest="count_flops", action="store_false")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--direction", help=argparse.SUPPRESS)
    parser.add_argument("--blocks", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--outputs", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(measure(options)))
        return
    peak = machine_peak()
    print(f"{torch.get_num_threads()} threads, measured peak {peak:.0f} GFLOP/s", flush=True)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for direction in options.passes:
            for blocks, numbers in enumerate(BLOCKS):
                reference: dict[str, Tensor] = {}
                base: dict[str, float] = {}
                for way in options.ways:
                    if "checkpointed" in way and direction == "forward":
                        continue
                    file = Path(folder, "outputs.safetensors")
                    case = [f"--way={way}", f"--direction={direction}", f"--blocks={blocks}"]
                    output = subprocess.run(  # noqa: S603 - this script itself
                        [sys.executable, *sys.argv, *case, f"--outputs={file}"],
                        check=True,
                        capture_output=True,
                        text=True,
                    ).stdout
                    result = json.loads(output.splitlines()[-1])
                    outputs = load_file(file)
                    base, reference = base or result, reference or outputs
                    rows.append(
                        {
                            "pass": direction,
                            "blocks": str(list(numbers)),
                            "way": way,
                            "seconds": result["seconds"],
                            "times faster": base["seconds"] / result["seconds"],
                            "peak GiB": result["peak"],
                            "above weights": result["above_weights"],
                            "share of plain": result["above_weights"] / base["above_weights"],
                            "of peak": result["flops"] / result["seconds"] / 1e9 / peak,
                            "difference": max(
                                float((outputs[k] - r).abs().max() / r.abs().max())
                                for k, r in reference.items()
                            ),
                        }
                    )
                    table = pd.DataFrame(rows).to_string(index=False, float_format="%.3g")
                    print(f"\n{options.denoiser}, {options.size} px\n{table}", flush=True)


if __name__ == "__main__":
    main()
