"""Data loading: images per second by workers, and memory against the length of the manifest.

Draws phantom files, lists them in a manifest over and over until it has the wanted rows, and reads
an epoch's worth of it through the data module, augmentation included. A process each, so that
every peak is its own.

    python benchmarks/data_loading.py
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import pandas as pd

from lcpdn_pl.data import Manifest, Phantom
from lcpdn_pl.data.lvit import read_lvit


def peak() -> float:
    """MiB that this process has taken at most, without its loader workers."""
    status = Path("/proc/self/status").read_text()
    return int(next(s for s in status.splitlines() if s.startswith("VmHWM")).split()[1]) / 1024


def write_manifest(folder: Path, rows: int, distinct: int) -> Path:
    """A manifest of ``rows`` rows over ``distinct`` drawn images."""
    phantom = Phantom(str(folder), counts=(distinct, 1, 1), image_size=256)
    phantom.prepare_data()
    samples = read_lvit(phantom.root)
    train = samples[samples["split"] == "train"]
    table = pd.concat([train] * (rows // len(train)), ignore_index=True)
    table["name"] = [f"{name}_{number}" for number, name in enumerate(table["name"])]
    table = pd.concat([table, samples[samples["split"] == "val"]])
    path = folder / f"rows_{rows}.csv"
    table.to_csv(path, index=False)
    return path


def measure(path: Path, workers: int, draws: int) -> dict[str, float]:
    """Sets a data module up and reads ``draws`` samples from it."""
    data = Manifest(str(path), batch_size=4, num_workers=workers)
    start = time.perf_counter()
    data.setup("fit")
    ready = time.perf_counter() - start
    batches = iter(data.train_dataloader())
    next(batches)
    start = time.perf_counter()
    count = sum(len(batch["name"]) for batch in islice(batches, draws // 4))
    return {
        "set up, s": ready,
        "images/s": count / (time.perf_counter() - start),
        "peak, MiB": peak(),
    }


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--distinct", type=int, default=100, help="image files")
    parser.add_argument("--draws", type=int, default=400, help="images read in each case")
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        path, workers = options.case
        print(json.dumps(measure(Path(path), int(workers), options.draws)))
        return
    with tempfile.TemporaryDirectory() as folder:
        results = []
        cases = [(options.rows[0], count) for count in options.workers]
        cases += [(rows, 0) for rows in options.rows[1:]]
        for rows, workers in cases:
            path = write_manifest(Path(folder), rows, options.distinct)
            output = subprocess.run(  # noqa: S603 - this script itself
                [sys.executable, *sys.argv, "--case", str(path), str(workers)],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
            results.append({"rows": rows, "workers": workers} | json.loads(output.splitlines()[-1]))
            print(pd.DataFrame(results).to_string(index=False, float_format="%.1f"), flush=True)


if __name__ == "__main__":
    main()
