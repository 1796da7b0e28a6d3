"""How large LTFR's result H = F* * F_img (eq. 10) gets at each scale of trained LCPDN runs.

Prints, for the validation images of each run (never the test split), the deviation and the largest
absolute value of the projected features, of F_img, which are these as LTFR sees them, and of H.
Runs with ``normalise: false`` beside those with it show what the normalisation is for.

    python benchmarks/fusion.py runs/variants/monuseg/as_is/0/best.ckpt \
        runs/variants/monuseg/not_normalised/0/best.ckpt
"""

import argparse
from collections import defaultdict
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from lcpdn_pl.data.datamodule import SegmentationDataModule
from lcpdn_pl.models.lcpdn.network import LCPDN
from lcpdn_pl.restore import restore
from lcpdn_pl.tasks import SegmentationTask


def magnitudes(checkpoint: Path) -> pd.DataFrame:
    """Deviation and largest absolute value, a row for each scale, in the order of the head."""
    task, data = restore(checkpoint)
    assert isinstance(task, SegmentationTask)  # noqa: S101 - what has a network
    assert isinstance(data, SegmentationDataModule)  # noqa: S101
    network = task.network
    assert isinstance(network, LCPDN)  # noqa: S101 - what has LTFR
    seen: defaultdict[str, list[Tensor]] = defaultdict(list)
    # A hook that returns nothing changes nothing.
    network.norm.register_forward_hook(lambda _, inputs, __: seen["projected"].append(inputs[0]))
    network.fusion.register_forward_hook(lambda _, inputs, __: seen["F_img"].append(inputs[0]))
    network.fusion.register_forward_hook(lambda _, __, result: seen["H"].append(result))
    data.setup("validate")
    with torch.no_grad():
        for batch in data.val_dataloader():
            task(batch["image"], batch["text"])
    scales = [f"block {block}" for block in network.features.blocks]
    scales += ["pixels"] if "pixels" in network.clean_scales else []
    scales += [f"encoder map {index}" for index in network.encoder_maps]
    table = pd.DataFrame(index=scales)
    for name, calls in seen.items():
        values = [
            torch.cat([call.flatten() for call in calls[s :: len(scales)]])
            for s in range(len(scales))
        ]
        table[f"{name}, deviation"] = [float(value.std()) for value in values]
        table[f"{name}, largest"] = [float(value.abs().max()) for value in values]
    return table


def main() -> None:
    """Prints a table for each run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoints", type=Path, nargs="+")
    for checkpoint in parser.parse_args().checkpoints:
        print(checkpoint, magnitudes(checkpoint).to_string(float_format="%.3g"), "", sep="\n")


if __name__ == "__main__":
    main()
