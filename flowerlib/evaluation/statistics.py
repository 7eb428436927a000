"""The numbers behind 01_eda: a table with one row an image, then counts, colours and near-duplicates out of it.

The images themselves are decoded once and let go; what stays is a few hundred bytes an image.
"""

import colorsys

import numpy as np
import pandas as pd
from tqdm import tqdm

from flowerlib import data
from flowerlib.accelerator import tf
from flowerlib.data import Flowers
from flowerlib.predictions import metrics

BATCH = 64  # images decoded at a time: 200 MB at 512 px
WHOLE = ["red", "green", "blue"]
MIDDLE = ["middle_red", "middle_green", "middle_blue"]


def image_table(flowers: Flowers, progress: bool = True) -> pd.DataFrame:
    """Decode every image once and tabulate what 01_eda needs.

    Returns:
        One row an image, named by its split and id, split after split, each in file order: `split`, `position` in it,
        `label` (-1 in test), `class` ("?" in test), `kilobytes` of the JPEG, the mean colour in [0, 255] of the whole
        (`red`, `green`, `blue`) and of the middle half (`middle_red`, ...), the perceptual `hash` and that of the
        mirror image, `mirrored` (uint64).
    """
    names = np.array([*flowers.classes, "?"])  # label -1, of the test images, is the last
    parts = []
    with tqdm(desc="decoding images", total=sum(map(flowers.count, data.SPLITS)), disable=not progress) as bar:
        for split in data.SPLITS:
            batches = tf.data.Dataset.zip(data.eval_batches(flowers, split, BATCH), _kilobytes(flowers, split))
            for (images, labels, ids), kilobytes in batches:
                labels = labels.numpy()
                columns = {"split": split, "label": labels, "class": names[labels], "kilobytes": kilobytes}
                image = [f"{split} {name}" for name in data.decode_utf8(ids.numpy())]
                parts.append(pd.DataFrame(columns | _pixel_columns(images), pd.Index(image, name="image")))
                bar.update(len(labels))
    table = pd.concat(parts)
    table.insert(1, "position", table.groupby("split").cumcount())
    return table


def _kilobytes(flowers: Flowers, split: str) -> tf.data.Dataset:
    features = {"image": tf.io.FixedLenFeature([], tf.string)}
    records = data.record_batches(flowers, split, BATCH)
    return records.map(lambda _, batch: tf.strings.length(tf.io.parse_example(batch, features)["image"]) / 1000)


def _pixel_columns(images: tf.Tensor) -> dict[str, np.ndarray]:
    """Return the columns that come from the pixels `(B, S, S, 3)`."""
    images = tf.cast(images, tf.float32)
    quarter = images.shape[1] // 4
    whole = tf.reduce_mean(images, (1, 2)).numpy().astype(float).T
    middle = tf.reduce_mean(images[:, quarter:-quarter, quarter:-quarter], (1, 2)).numpy().astype(float).T
    hashes, mirrored = data.perceptual_hashes(images)
    return dict(zip(WHOLE + MIDDLE, [*whole, *middle], strict=True)) | {"hash": hashes, "mirrored": mirrored}


def load_images(flowers: Flowers, chosen: pd.DataFrame) -> np.ndarray:
    """Fetch the images of the rows `chosen` from an image table, in their order, `(n, S, S, 3)` uint8."""
    images = np.empty((len(chosen), flowers.image_size, flowers.image_size, 3), np.uint8)
    for split, rows in chosen.reset_index(drop=True).groupby("split"):
        batches = data.eval_batches(flowers, split, BATCH).take(rows["position"].max() // BATCH + 1)
        for number, (batch, _, _) in enumerate(batches):
            here = rows[rows["position"] // BATCH == number]
            images[here.index] = tf.gather(batch, here["position"] % BATCH).numpy()
    return images


def class_counts(images: pd.DataFrame, num_classes: int) -> dict[str, np.ndarray]:
    """Count the images of each class, `(num_classes,)`, in the splits whose labels are known."""
    labels = {split: images.loc[images["split"] == split, "label"] for split in ("train", "val")}
    return {split: np.bincount(values, minlength=num_classes) for split, values in labels.items()}


def score_ignoring_rare(labels: np.ndarray, num_classes: int) -> pd.DataFrame:
    """Score a classifier that is perfect but for the rarest classes, in whose place it predicts the most frequent one.

    Args:
        labels: the true labels `(n,)`.
        num_classes: how many classes there are; those without an image are left out.

    Returns:
        One row for each number of classes `ignored`, from 0 to all but one: `accuracy` and `macro_f1`.
    """
    counts = np.bincount(labels, minlength=num_classes)
    rarest_first = np.argsort(counts, kind="stable")[num_classes - np.count_nonzero(counts) :]
    rows = []
    for ignored in range(len(rarest_first)):
        predicted = np.where(np.isin(labels, rarest_first[:ignored]), rarest_first[-1], labels)
        scores = metrics.accuracy(labels, predicted), metrics.macro_f1(labels, predicted, num_classes)
        rows.append((ignored, *scores))
    return pd.DataFrame(rows, columns=["ignored", "accuracy", "macro_f1"])


def colour_strips(images: pd.DataFrame, length: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Return each class's colours in the middle of its training images, from dark to bright.

    Returns:
        Strips `(k, length, 3)` in [0, 255], evenly picked images of each class, and the labels `(k,)` of their
        classes, those without a training image left out, ordered by the hue of their mean colour.
    """
    train = images[images["split"] == "train"].assign(light=images[MIDDLE].sum(axis=1)).sort_values("light")
    groups = {label: rows[MIDDLE].to_numpy() for label, rows in train.groupby("label")}
    order = sorted(groups, key=lambda label: colorsys.rgb_to_hsv(*groups[label].mean(axis=0)))
    picks = [np.linspace(0, len(groups[label]) - 1, length).round().astype(int) for label in order]
    return np.stack([groups[label][pick] for label, pick in zip(order, picks, strict=True)]), np.array(order)


def colour_scores(images: pd.DataFrame, num_classes: int) -> pd.DataFrame:
    """Score on the validation images what colour alone can tell: the class whose mean colour in training is nearest.

    Returns:
        `accuracy` and `macro_f1`, one row for each choice of colours, and one for always predicting the largest class.
    """
    train, val = images[images["split"] == "train"], images[images["split"] == "val"]
    guesses = {"always the largest class": np.full(len(val), train["label"].mode()[0])}
    for name, columns in {"whole image": WHOLE, "middle": MIDDLE, "both": WHOLE + MIDDLE}.items():
        means = train.groupby("label")[columns].mean()
        distance = np.linalg.norm(val[columns].to_numpy()[:, None] - means.to_numpy(), axis=2)  # (n, classes)
        guesses[f"nearest mean colour, {name}"] = means.index.to_numpy()[distance.argmin(axis=1)]
    rows = {
        name: (metrics.accuracy(val["label"], guess), metrics.macro_f1(val["label"], guess, num_classes))
        for name, guess in guesses.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=["accuracy", "macro_f1"])


def near_duplicates(images: pd.DataFrame, max_distance: int) -> pd.DataFrame:
    """List the pairs of images of which at most `max_distance` of the 64 bits differ, the most alike first.

    Among 7,123 photographs, 25 million pairs, inspected by eye: the 16 pairs within 6 bits were two takes of one
    flower; at 8 bits a third of 9 pairs had nothing to do with each other, at 10 most.

    Returns:
        `left` and `right`, names of rows of the image table, in its order; `distance` in bits; `mirrored`, whether
        one is like the other's mirror image; `across`, whether they are in different splits; `classes`: "same",
        "different", or "unknown" where one is a test image.
    """
    hashes, label, split = (images[column].to_numpy() for column in ("hash", "label", "split"))
    plain = _close_pairs(hashes, hashes, max_distance).assign(mirrored=False)
    mirrored = _close_pairs(hashes, images["mirrored"].to_numpy(), max_distance).assign(mirrored=True)
    pairs = pd.concat([plain, mirrored]).sort_values(["distance", "mirrored", "left", "right"], ignore_index=True)
    pairs = pairs.drop_duplicates(["left", "right"], ignore_index=True)  # a symmetric image is like its mirror image
    left, right = pairs["left"].to_numpy(), pairs["right"].to_numpy()
    known = (label[left] >= 0) & (label[right] >= 0)
    alike = np.where(label[left] == label[right], "same", "different")
    pairs = pairs.assign(across=split[left] != split[right], classes=np.where(known, alike, "unknown"))
    return pairs.assign(left=images.index[left], right=images.index[right])


def _close_pairs(hashes: np.ndarray, others: np.ndarray, max_distance: int) -> pd.DataFrame:
    return pd.DataFrame(
        dict(zip(("left", "right", "distance"), data.close_pairs(hashes, others, max_distance), strict=True))
    )


def count_cross_split_duplicates(images: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """Count the images of a later split that have a near-duplicate in an earlier one.

    Returns:
        One row a split, `val` (looked for in train) and `test` (in train and val): `images` that have one and their
        `share` of the split.
    """
    leaked = images.loc[pairs.loc[pairs["across"], "right"].unique(), "split"].value_counts()
    table = pd.DataFrame({"images": leaked.reindex(["val", "test"], fill_value=0)})
    return table.assign(share=table["images"] / images["split"].value_counts())
