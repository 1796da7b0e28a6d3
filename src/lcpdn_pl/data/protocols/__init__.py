r"""Protocols: which images train, validate and test, as lists of names in files.

Each `<name>.csv` in this folder has the columns name (the image's stem) and split. They were drawn
once, from the names in LViT's layout (MoNuSeg whole, 500/120/200 images of QaTa-COV19's
train/val/test, 150/20/48 slices of MosMedData+ in which no volume is in two splits):

- `monuseg_0` to `monuseg_4`: 5 of the 24 training images, seed 0 to 4; all of val and test.
- `qata_cov19`: 150 / 30 / 50 of train / val / test.
- `mosmed_plus_mixed`: 150 / 20 / 30 of all slices pooled, so slices of one volume are on both
  sides, as in the published split.
- `mosmed_plus_by_volume`: all of train and val, 30 of test; no volume is in two splits.

To draw them again, with `root` the folder of the data sets and `out` this one::

    import numpy as np
    import pandas as pd

    def names(data, *splits):
        return sorted(p.stem for s in splits for p in (root / data / f"{s}_Folder/img").iterdir())

    def draw(pool, count, rng):
        return sorted(rng.choice(pool, count, replace=False).tolist())

    def write(protocol, **splits):
        rows = [(name, split) for split, drawn in splits.items() for name in drawn]
        table = pd.DataFrame(rows, columns=["name", "split"])
        table.to_csv(out / f"{protocol}.csv", index=False, lineterminator="\n")

    train, val, test = (names("MoNuSeg", split) for split in ("Train", "Val", "Test"))
    for seed in range(5):
        drawn = draw(train, 5, np.random.default_rng(seed))
        write(f"monuseg_{seed}", train=drawn, val=val, test=test)

    rng = np.random.default_rng(0)
    train, val, test = (names("QaTa-COV19", split) for split in ("Train", "Val", "Test"))
    train, val, test = draw(train, 150, rng), draw(val, 30, rng), draw(test, 50, rng)
    write("qata_cov19", train=train, val=val, test=test)

    rng = np.random.default_rng(0)
    mixed = rng.permutation(names("MosMedDataPlus", "Train", "Val", "Test")).tolist()
    train, val, test = sorted(mixed[:150]), sorted(mixed[150:170]), sorted(mixed[170:200])
    write("mosmed_plus_mixed", train=train, val=val, test=test)

    train, val, test = (names("MosMedDataPlus", split) for split in ("Train", "Val", "Test"))
    test = draw(test, 30, np.random.default_rng(0))
    write("mosmed_plus_by_volume", train=train, val=val, test=test)
"""

from importlib.resources import files

import pandas as pd

from lcpdn_pl.errors import DataError


def protocol_names() -> list[str]:
    """The protocols of this package, as `read_protocol` takes them."""
    entries = (entry.name for entry in files(__name__).iterdir())
    return sorted(name.removesuffix(".csv") for name in entries if name.endswith(".csv"))


def read_protocol(name: str) -> pd.DataFrame:
    """Reads a protocol of this package.

    Args:
        name: The file's name without `.csv`, such as `qata_cov19`.

    Returns:
        Table with the columns name and split (train, val, test), names sorted inside a split.

    Raises:
        DataError: There is no protocol of that name; those there are are listed.
    """
    known = protocol_names()
    if name not in known:
        raise DataError(
            f"protocol: expected one of {', '.join(known)}, found `{name}`. Choose one "
            "of them, or `full` for all images."
        )
    with files(__name__).joinpath(f"{name}.csv").open(encoding="utf-8") as lines:
        return pd.read_csv(lines, dtype=str)
