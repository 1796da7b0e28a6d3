"""Each planted fault is found, and nothing is found in a clean tree."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image

from lcpdn_pl.data import checks
from lcpdn_pl.data.checks import Finding
from lcpdn_pl.data.checks.likeness import SIMILAR, similarity
from lcpdn_pl.data.lvit import list_lvit
from lcpdn_pl.data.manifest import list_manifest
from lcpdn_pl.data.problems import Problems
from lcpdn_pl.data.protocols import read_protocol
from lcpdn_pl.data.samples import COLUMNS
from tests.conftest import TreeMaker


@pytest.fixture
def tree(make_tree: TreeMaker, tmp_path: Path) -> Path:
    return make_tree(tmp_path / "tree", size=64)


def table(root: Path, **options: tuple[int, ...] | int) -> pd.DataFrame:
    return checks.survey(list_lvit(root)[0], **options)  # type: ignore[arg-type]


def one(findings: list[Finding], key: str) -> Finding:
    (finding,) = (finding for finding in findings if finding.key == key)
    return finding


def keys(findings: list[Finding]) -> list[str]:
    return [finding.key for finding in findings]


def smooth(seed: int, side: int = 200) -> NDArray[np.uint8]:
    """A picture with structure at all scales."""
    rng = np.random.default_rng(seed)
    total = np.zeros((side, side), np.float32)
    for cells in (3, 6, 12, 25):
        noise = rng.normal(size=(cells, cells)).astype(np.float32)
        total += cv2.resize(noise, (side, side), interpolation=cv2.INTER_CUBIC)
    return np.clip(128 + 30 * total, 0, 255).astype(np.uint8)


def test_clean_tree(tree: Path) -> None:
    samples = table(tree, foreground=(255,))
    findings = [
        *checks.check_files(samples, Problems(), ""),
        *checks.check_splits(samples),
        *checks.check_known_protocols(samples),
        *checks.check_images(samples, 64),
        *checks.check_masks(samples, (255,)),
        *checks.check_reports(samples),
        *checks.check_lengths(samples, "words", lambda text: len(text.split()), 10),
        *checks.check_sides(samples),
        *checks.check_names(samples),
        *checks.check_copies(samples),
        *checks.check_twins(samples),
        *checks.check_groups(samples),
    ]
    assert checks.worst(findings) == "ok"
    assert {finding.topic for finding in findings} == {
        "files",
        "splits",
        "images",
        "masks",
        "reports",
        "sides",
        "names",
        "leaks",
    }
    assert one(findings, "splits.counts").figures == {"train": 4, "val": 2, "test": 3}
    assert one(findings, "images.sizes").figures == {"64x64": 9}
    assert one(findings, "images.kinds").figures == {"PNG RGB": 9}
    values = one(findings, "masks.values").figures
    assert values.keys() == {"0", "255"}
    assert sum(int(str(pixels)) for pixels in values.values()) == 9 * 64 * 64
    shares = one(findings, "masks.foreground").figures
    assert shares.keys() == {"train", "val", "test"}
    assert all(share == pytest.approx(np.pi / 36, abs=0.01) for share in shares.values())
    assert one(findings, "reports.distinct").figures == {"reports": 9, "distinct": 2}
    assert one(findings, "reports.tokens").figures == {
        "least": 5,
        "median": 5,
        "most": 5,
        "limit": 10,
    }


def test_every_problem_of_the_listing_is_an_error(tree: Path) -> None:
    (tree / "Train_Folder/labelcol/train_0.png").unlink()
    (tree / "Train_Folder/labelcol/stray.png").write_bytes(b"")
    (tree / "Val_Folder/Val_text.csv").write_text("Image,Description\nval_0.png,left\n")
    samples, problems = list_lvit(tree)
    assert len(samples) == 9  # what there is can still be checked
    findings = checks.check_files(checks.survey(samples), problems, "Mend it.")
    assert {finding.level for finding in findings} == {"error"}
    assert {finding.remedy for finding in findings} == {"Mend it."}
    items = " ".join(item for finding in findings for item in finding.items)
    for name in ("train_0.png", "stray.png", "val_1.png"):
        assert name in items
    assert one(checks.check_reports(samples), "reports.empty").items == ("val_1",)


@pytest.mark.parametrize("part", ["img", "labelcol"])
def test_all_unreadable_files_are_listed(tree: Path, part: str) -> None:
    broken = [tree / "Test_Folder" / part / f"test_{index}.png" for index in (0, 2)]
    broken[0].write_bytes(b"")
    broken[1].write_bytes(broken[1].read_bytes()[:100])
    samples = table(tree)
    finding = one(checks.check_files(samples, Problems(), ""), "files.unreadable")
    assert finding.level == "error"
    assert [item.split(":")[0] for item in finding.items] == [str(path) for path in broken]
    # The others are still looked at.
    assert one(checks.check_masks(samples), "masks.values").level == "ok"
    assert "7" in one(checks.check_images(samples), "images.sizes").message or part == "labelcol"


def test_splits() -> None:
    whole = pd.DataFrame({"split": ["train", "val", "test"]})
    assert keys(checks.check_splits(whole)) == ["splits.counts"]
    for left_out, level in (("train", "error"), ("val", "error"), ("test", "note")):
        findings = checks.check_splits(whole[whole["split"] != left_out])
        missing = one(findings, "splits.missing")
        assert (missing.level, missing.items) == (level, (left_out,))
    # Images to segment alone are no training data, nor meant to be.
    findings = checks.check_splits(pd.DataFrame({"split": ["predict"]}))
    assert one(findings, "splits.missing").level == "note"


def test_protocols() -> None:
    protocol = read_protocol("monuseg_0")
    (finding,) = checks.check_protocol(protocol, protocol, "paper")
    assert (finding.level, finding.figures) == ("ok", {"train": 5, "val": 6, "test": 14})
    (finding,) = checks.check_protocol(protocol.iloc[2:], protocol, "paper")
    assert (finding.level, finding.items) == ("error", tuple(protocol["name"][:2]))
    known = checks.check_known_protocols(protocol)
    assert [finding.level for finding in known] == ["ok", "note", "note", "note", "note"]
    assert checks.check_known_protocols(pd.DataFrame({"name": ["mine"]})) == []


def test_images(tree: Path) -> None:
    folder = tree / "Train_Folder/img"
    Image.new("L", (50, 40), 9).save(folder / "train_0.png")
    Image.new("RGBA", (64, 64), 9).save(folder / "train_1.png")
    Image.new("I;16", (64, 64), 9).save(folder / "train_2.png")
    findings = checks.check_images(table(tree), 64)
    assert one(findings, "images.sizes").figures == {"64x64": 8, "40x50": 1}
    assert one(findings, "images.kinds").figures == {
        "PNG RGB": 6,
        "PNG L": 1,
        "PNG RGBA": 1,
        "PNG I;16": 1,
    }
    for key, name in (("oblong", 0), ("enlarged", 0), ("alpha", 1), ("deep", 2)):
        finding = one(findings, f"images.{key}")
        assert (finding.level, finding.items) == ("note", (f"train_{name}",))


def test_mask_values(tree: Path) -> None:
    folder = tree / "Train_Folder/labelcol"
    for name, value in (("train_0", 127), ("train_1", 3)):
        mask = np.array(Image.open(folder / f"{name}.png"))
        mask[mask == 255] = value
        Image.fromarray(mask).save(folder / f"{name}.png")
    finding = one(checks.check_masks(table(tree), (255,)), "masks.unexpected")
    assert finding.level == "error"
    assert [Path(item.split(":")[0]).name for item in finding.items] == [
        "train_0.png",
        "train_1.png",
    ]
    assert " 127 (" in finding.items[0]
    samples = table(tree, foreground=(127, 255), ignore=3)
    assert "masks.unexpected" not in keys(checks.check_masks(samples, (127, 255), 3))
    # Where nobody says what is foreground, all but 0 is.
    findings = checks.check_masks(table(tree))
    assert checks.worst(findings) == "ok"
    assert one(findings, "masks.values").figures.keys() == {"0", "3", "127", "255"}


def test_mask_as_jpeg(tree: Path) -> None:
    path = tree / "Val_Folder/labelcol/val_0.png"
    Image.open(path).save(path.with_suffix(".jpg"), quality=50)
    path.unlink()
    findings = checks.check_masks(table(tree))
    assert one(findings, "masks.lossy").items == ("val_0",)
    assert one(findings, "masks.smeared").level == "warning"


def test_masks_of_nothing_or_of_all_or_of_another_size(tree: Path) -> None:
    folder = tree / "Test_Folder/labelcol"
    Image.new("L", (64, 64), 0).save(folder / "test_0.png")
    Image.new("L", (64, 64), 255).save(folder / "test_1.png")
    Image.new("L", (60, 64), 0).save(folder / "test_2.png")
    findings = checks.check_masks(table(tree), (255,))
    empty, full = one(findings, "masks.empty"), one(findings, "masks.full")
    assert (empty.level, empty.items) == ("warning", ("test_0", "test_2"))
    assert (full.level, full.items) == ("warning", ("test_1",))
    size = one(findings, "masks.sizes")
    assert (size.level, size.items) == ("error", ("test_2: image 64x64, mask 64x60",))


def test_masks_that_lie_beside_their_structures(make_tree: TreeMaker, tmp_path: Path) -> None:
    tree = make_tree(tmp_path, (4, 2, 12), size=64)
    for path in tree.glob("*/labelcol/*.png"):
        Image.fromarray(np.roll(np.array(Image.open(path)), (-5, 0), (0, 1))).save(path)
    finding = one(checks.check_masks(table(tree)), "masks.shifted")
    assert finding.level == "warning"
    assert "test: the outlines of 12 masks" in finding.message  # of 4 and of 2 it cannot be told
    assert finding.message.endswith("images 8% down from where they are")
    assert finding.figures == {"split": "test", "down": 0.0781, "right": 0.0}
    assert finding.remedy


def test_reports() -> None:
    frame = pd.DataFrame({"name": ["a", "b", "c"], "text": ["One.", "", "Инфекция слева."]})
    findings = checks.check_reports(frame)
    assert one(findings, "reports.distinct").figures == {"reports": 2, "distinct": 2}
    assert one(findings, "reports.empty").items == ("b",)
    assert one(findings, "reports.empty").level == "error"
    assert one(findings, "reports.letters").items == ("Инфекция слева.",)
    same = checks.check_reports(frame.assign(text="Same."))
    assert one(same, "reports.distinct").level == "warning"


def test_lengths_count_each_distinct_report_once() -> None:
    seen = []

    def count(text: str) -> int:
        seen.append(text)
        return len(text.split())

    texts = ["one two", "one two", "word " * 300, "word " * 300, ""]
    frame = pd.DataFrame({"name": list("abcde"), "text": texts})
    (finding,) = checks.check_lengths(frame, "words", count, 64)
    assert seen == ["one two", "word " * 300]
    assert (finding.level, finding.items) == ("warning", ("c (300)", "d (300)"))
    assert finding.figures == {"least": 2, "median": 151, "most": 300, "limit": 64}


def test_sides(make_tree: TreeMaker, tmp_path: Path) -> None:
    samples, _ = list_lvit(make_tree(tmp_path / "tree", (12, 2, 3)))
    assert [finding.level for finding in checks.check_sides(checks.survey(samples))] == ["ok"] * 3
    swapped = samples.assign(
        text=[
            text.replace("left", "x").replace("right", "left").replace("x", "right")
            for text in samples["text"]
        ]
    )
    train, *few = checks.check_sides(checks.survey(swapped))
    assert train.level == "warning"
    assert train.figures == {"split": "train", "reports": 12, "share": 0}
    assert len(train.items) == 12
    assert "patient" in train.remedy  # all of them fit in a mirror
    assert [finding.level for finding in few] == ["note", "note"]  # of 2 and 3 reports
    shuffled = samples.assign(text=sorted(samples["text"]))
    assert checks.check_sides(checks.survey(shuffled))[0].level == "warning"
    silent = samples.assign(text="One nucleus.")
    assert keys(checks.check_sides(checks.survey(silent))) == ["sides.none"]


def test_names() -> None:
    names = ["a", "a", "b c", "größe"]
    findings = checks.check_names(pd.DataFrame({"name": names, "image": list("1234")}))
    assert [(finding.key, finding.level, finding.items) for finding in findings] == [
        ("names.twice", "error", ("a (1, 2)",)),
        ("names.spaces", "note", ("b c",)),
        ("names.letters", "note", ("größe",)),
    ]


@pytest.mark.parametrize("suffix", [".bmp", ".tif"])
def test_the_same_pixels_in_another_format(tree: Path, suffix: str) -> None:
    picture = Image.open(tree / "Train_Folder/img/train_1.png")
    (tree / "Test_Folder/img/test_2.png").unlink()
    picture.save(tree / "Test_Folder/img" / f"test_2{suffix}")
    picture.save(tree / "Train_Folder/img/train_3.png")
    samples = table(tree)
    finding = one(checks.check_copies(samples), "leaks.copies")
    assert finding.level == "error"
    assert finding.items == ("train_1 (train) = train_3 (train) = test_2 (test)",)
    within = one(checks.check_copies(samples[samples["split"] == "train"]), "leaks.copies_within")
    assert (within.level, within.items) == ("warning", ("train_1 (train) = train_3 (train)",))
    # Images to segment may be those that were learned from.
    used_again = samples.assign(split=samples["split"].replace("test", "predict"))
    assert keys(checks.check_copies(used_again)) == ["leaks.copies_within"]
    assert keys(checks.check_twins(samples)) == ["leaks.twins"]  # copies are no twins, too
    assert checks.check_twins(samples)[0].level == "ok"


def jpeg(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    _, code = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 60])
    return np.asarray(cv2.imdecode(code, cv2.IMREAD_GRAYSCALE), np.uint8)


@pytest.mark.parametrize(
    "change",
    [
        lambda pixels: cv2.convertScaleAbs(pixels, alpha=0.85, beta=20),
        lambda pixels: pixels[4:-6, 5:-3],
        lambda pixels: jpeg(cv2.convertScaleAbs(pixels[3:, :-4], alpha=1.05)),
        lambda pixels: cv2.resize(pixels, (90, 80), interpolation=cv2.INTER_AREA),
    ],
    ids=["brightened", "cropped", "cropped, brightened, compressed", "resized"],
)
def test_pictures_that_look_the_same(
    tree: Path, change: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
) -> None:
    for seed, path in enumerate(sorted(tree.rglob("img/*.png"))):
        Image.fromarray(smooth(seed)).save(path)
    original = np.array(Image.open(tree / "Train_Folder/img/train_2.png"))
    for place in ("Test_Folder/img/test_1.png", "Train_Folder/img/train_0.png"):
        Image.fromarray(change(original)).save(tree / place)
    Image.fromarray(np.fliplr(original)).save(tree / "Val_Folder/img/val_0.png")
    samples = table(tree)
    samples = samples[samples["name"] != "train_0"]
    (finding,) = checks.check_twins(samples)
    assert (finding.key, finding.level) == ("leaks.twins", "warning")
    (item,) = finding.items
    assert item.startswith("train_2 (train) ~ test_1 (test): 0.9")
    twins = checks.check_twins(table(tree).query("split == 'train'"))
    assert (twins[0].key, twins[0].level) == ("leaks.twins_within", "note")
    # Neighbouring slices of a volume look alike; in one split that is as it should be.
    slices = samples.assign(
        split="train", name=samples["name"].replace({"train_2": "v1_1", "test_1": "v1_2"})
    )
    assert checks.worst(checks.check_twins(slices)) == "ok"


def test_similarity_of_what_shows_nothing() -> None:
    flat = np.full((96, 96), 7, np.uint8)
    assert similarity(flat, flat) == 0
    first, second = (cv2.resize(smooth(seed), (96, 96)) for seed in (1, 2))
    assert similarity(first, second) < SIMILAR - 0.2
    assert similarity(first, first) > 0.99


def test_no_samples_at_all() -> None:
    samples = checks.survey(pd.DataFrame(columns=list(COLUMNS)))
    assert checks.worst(checks.check_twins(samples)) == "ok"
    assert checks.check_masks(samples) == checks.check_images(samples) == []
    assert one(checks.check_splits(samples), "splits.missing").level == "error"


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("TCGA-AY-A8YK-01A-01-TS1", ("patient", "TCGA-AY-A8YK")),
        ("sub-S09734_ses-E20918_run-1_bp-chest_vp-ap_dx", ("patient", "sub-S09734")),
        ("Jun_radiopaedia_10_85902_1_case11_10", ("patient", "radiopaedia_10")),
        ("Jun_coronacases_case4_127", ("volume", "Jun_coronacases_case4")),
        ("volume_0_12", ("volume", "volume_0")),
        ("IM-0001-0023", ("volume", "IM-0001")),
        ("covid_10", None),
        ("train_0001_ct", None),
        ("p01", None),
        ("TCGA", None),
    ],
)
def test_what_names_tell(name: str, group: tuple[str, str] | None) -> None:
    assert checks.group_of(name) == group


def test_groups() -> None:
    def check(rows: dict[str, str]) -> Finding:
        (finding,) = checks.check_groups(
            pd.DataFrame({"name": list(rows), "split": list(rows.values())})
        )
        return finding

    slides = {
        "TCGA-G9-6356-01Z-00-DX1": "train",
        "TCGA-G9-6356-01A-01-TS1": "test",
        "TCGA-G9-6363-01Z-00-DX1": "test",
    }
    finding = check(slides)
    assert (finding.key, finding.level) == ("leaks.patient", "warning")
    assert finding.items == ("TCGA-G9-6356 (train 1, test 1)",)
    assert check(slides | {"TCGA-G9-6356-01A-01-TS1": "train"}).level == "ok"
    assert check(slides | {"TCGA-G9-6356-01A-01-TS1": "predict"}).level == "ok"
    volumes = {"v1_1": "train", "v1_2": "val", "v2_1": "test"}
    assert check(volumes).items == ("v1 (train 1, val 1)",)
    assert check({"v1_1": "train", "v1_2": "val"}).level == "ok"  # a prefix that all share


def test_manifest_is_listed_whatever_its_state(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("image,mask,text,split\na.png,b.png,,train\n,,x,tain\n")
    samples, problems = list_manifest(path)
    assert len(samples) == 2
    assert list(problems.kinds) == [
        "missing files",
        "rows without a text",
        "rows without an image",
        "rows without a mask, which only the split predict may lack",
        "splits other than train, val, test, predict",
    ]


@pytest.mark.real
def test_real_near_duplicates(real_data: Path) -> None:
    """Two X-rays of one exposure, differently cut and stretched, among others of the set."""
    samples, _ = list_lvit(real_data / "QaTa-COV19")
    chosen = samples["name"].isin(["covid_1622", "covid_864", "covid_1397", "covid_2114"])
    chosen |= samples.index % 8 == 0
    findings = checks.check_twins(checks.survey(samples[chosen]))
    assert [item.rpartition(":")[0] for finding in findings for item in finding.items] == [
        "covid_1622 (train) ~ covid_864 (train)",
        "covid_1397 (train) ~ covid_2114 (train)",
    ]
