"""Every operation eagerly and inside tf.data, which differ more often than one thinks.

The oracle is a picture whose red is each pixel's column and whose green its row: what comes out says where each pixel
was read, so the map can be measured from outside, and SciPy can apply it to any other picture.
"""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from scipy import ndimage, stats

from flowerlib.accelerator import tf
from flowerlib.augmentation import IDENTITY, MIXES, Augmentation, cutmix, mixup, with_probability

SIZE = 32
OPERATIONS = {
    "horizontal flip": replace(IDENTITY, horizontal_flip=True),
    "vertical flip": replace(IDENTITY, vertical_flip=True),
    "rotation": replace(IDENTITY, rotation=30.0),
    "crop": replace(IDENTITY, crop=0.75),
    "contrast": replace(IDENTITY, contrast=0.2),
    "brightness": replace(IDENTITY, brightness=0.1),
}
FLIPS = ("horizontal flip", "vertical flip")
ALL = OPERATIONS | {"all six": Augmentation()}
GEOMETRY = {
    "rotation": OPERATIONS["rotation"],
    "crop": OPERATIONS["crop"],
    "all four": Augmentation(contrast=0.0, brightness=0.0),
}


def eagerly(operation, image, count, first=0):
    """Return `count` augmented images, (count, S, S, 3)."""
    one = tf.constant(image[None])
    return np.concatenate([operation(one, tf.constant([first, index])) for index in range(count)])


def in_a_pipeline(operation, image, count, first=0):
    seeds = tf.data.Dataset.range(count).map(lambda index: tf.stack([first, tf.cast(index, tf.int32)]))
    return np.concatenate(list(seeds.map(lambda seed: operation(tf.constant(image[None]), seed), tf.data.AUTOTUNE)))


def as_a_batch(operation, image, count, first=0):
    return operation(tf.constant(np.stack([image] * count)), tf.constant([first, 0])).numpy()


both_ways = pytest.mark.parametrize("apply", [eagerly, in_a_pipeline, as_a_batch])


@pytest.fixture(scope="module")
def photograph():
    """An image of the whole range, smooth as photographs are, the same in no direction: (32, 32, 3)."""
    coarse = np.random.default_rng(5).uniform(-60, 315, (6, 6, 3))
    return np.clip(tf.image.resize(coarse, (SIZE, SIZE), "bicubic"), 0, 255).astype(np.float32)


@pytest.fixture(scope="module")
def grey():
    """Nothing near black or white, so that no colour is cut off: (32, 32, 3) in [80, 170]."""
    return np.random.default_rng(6).uniform(80, 170, (SIZE, SIZE, 3)).astype(np.float32)


# What holds for each


@both_ways
@pytest.mark.parametrize("name", ALL)
def test_shape_type_and_range_stay(photograph, name, apply):
    augmented = apply(ALL[name], photograph, 32)
    assert augmented.shape == (32, SIZE, SIZE, 3)
    assert augmented.dtype == np.float32
    assert augmented.min() >= 0
    assert augmented.max() <= 255


@both_ways
@pytest.mark.parametrize("name", ALL)
def test_copies_of_one_image_turn_out_different(photograph, name, apply):
    augmented = apply(ALL[name], photograph, 32)
    assert len(np.unique(augmented, axis=0)) == (2 if name in FLIPS else 32)


@pytest.mark.parametrize("name", ALL)
def test_the_same_seeds_give_the_same_images_eagerly_and_in_a_pipeline(photograph, name):
    expected = eagerly(ALL[name], photograph, 16, first=9)
    for _ in range(2):
        np.testing.assert_allclose(in_a_pipeline(ALL[name], photograph, 16, first=9), expected, atol=1e-3)
    other = eagerly(ALL[name], photograph, 16, first=10)
    assert not np.array_equal(other, expected)


@pytest.mark.parametrize("name", ALL)
def test_the_shape_is_known_before_anything_is_computed(name):
    images = tf.data.Dataset.from_tensors(tf.zeros((5, SIZE, SIZE, 3), tf.uint8))
    augmented = images.map(lambda batch: ALL[name](batch, (1, 2)))
    assert augmented.element_spec == tf.TensorSpec((5, SIZE, SIZE, 3), tf.uint8)


def test_whole_numbers_are_rounded_and_stay_whole_numbers(photograph):
    images = tf.constant(np.stack([photograph] * 16))
    whole = tf.cast(images, tf.uint8)
    for function in (Augmentation(), lambda batch, seed: mixup(batch, tf.eye(16), seed)[0]):
        augmented = function(whole, (3, 4))
        assert augmented.dtype == tf.uint8
        expected = function(tf.cast(whole, tf.float32), (3, 4))
        difference = np.abs(np.float32(augmented) - expected)
        assert difference.max() < 1.25  # rounded when moved, enlarged by the contrast, and rounded when coloured
        assert difference.mean() < 0.4  # 0.25 for each rounding
    assert cutmix(whole, tf.eye(16), (3, 4))[0].dtype == tf.uint8


@both_ways
def test_the_identity_returns_the_image_itself(photograph, apply):
    np.testing.assert_array_equal(apply(IDENTITY, photograph, 4), [photograph] * 4)


# Where pixels are read


@both_ways
@pytest.mark.parametrize(("name", "axis"), [("horizontal flip", 1), ("vertical flip", 0)])
def test_a_flip_is_numpys_flip_in_half_of_the_cases(photograph, name, axis, apply):
    flipped = np.flip(photograph, axis)
    augmented = apply(OPERATIONS[name], photograph, 64)
    times = sum(np.array_equal(image, flipped) for image in augmented)
    assert times + sum(np.array_equal(image, photograph) for image in augmented) == 64
    assert 20 <= times <= 44  # 32 and three standard deviations of 4


def test_the_two_flips_are_drawn_independently(photograph):
    augmented = in_a_pipeline(replace(IDENTITY, horizontal_flip=True, vertical_flip=True), photograph, 64)
    four = [photograph, photograph[:, ::-1], photograph[::-1], photograph[::-1, ::-1]]
    times = [sum(np.array_equal(image, each) for image in augmented) for each in four]
    assert sum(times) == 64
    assert min(times) >= 6  # 16 and three standard deviations of 3.5


# OpenCV before 5 reads at multiples of 1/32 pixel: so far is it off at most, in pixels and in values of a photograph.
OFF, OFF_VALUE = (1 / 32, 2.0) if int(cv2.__version__.split(".")[0]) < 5 else (1e-3, 0.1)


def coordinates(size=SIZE):
    """(S, S, 3): red is the column, green the row."""
    rows, columns = np.mgrid[:size, :size]
    return np.stack([columns, rows, np.zeros_like(rows)], axis=-1).astype(np.float32)


def measured_maps(augmented):
    """Fit (n, 2, 3) affine maps, (column, row, 1) -> (column, row), to what became of `coordinates()`.

    The disc in the middle is always read from within the image, however it is turned and wherever it is cut.
    """
    columns, rows, _ = np.moveaxis(coordinates(), -1, 0)
    disc = np.hypot(columns - (SIZE - 1) / 2, rows - (SIZE - 1) / 2) < SIZE / 2 - 2
    places = np.stack([columns[disc], rows[disc], np.ones(disc.sum())], axis=1)
    read = augmented[:, disc, :2]
    maps = np.linalg.pinv(places) @ read
    np.testing.assert_allclose(places @ maps, read, atol=OFF)  # an affine map, and no pixel is read twice over
    return np.swapaxes(maps, 1, 2)


def angle_and_share(maps):
    """Of maps that turn, cut and enlarge: degrees, and the side of what is shown as a share of the image's."""
    cos, sin = maps[:, 0, 0], maps[:, 1, 0]
    np.testing.assert_allclose(maps[:, :, 1], np.stack([-sin, cos], axis=1), atol=OFF / 10)  # nothing is sheared
    return np.degrees(np.arctan2(sin, cos)), np.hypot(cos, sin)


@both_ways
@pytest.mark.parametrize("name", GEOMETRY)
def test_scipy_resamples_to_the_same_image(photograph, name, apply):
    maps = measured_maps(apply(GEOMETRY[name], coordinates(), 16))
    places = coordinates()
    places[..., 2] = 1
    for image, affine in zip(apply(GEOMETRY[name], photograph, 16), maps, strict=True):
        columns, rows = affine @ places.reshape(-1, 3).T
        channels = [
            ndimage.map_coordinates(channel, [rows, columns], order=1, mode="reflect")
            for channel in np.moveaxis(photograph, -1, 0)
        ]
        np.testing.assert_allclose(image.reshape(-1, 3), np.transpose(channels), atol=OFF_VALUE)


def test_rotation_turns_around_the_centre_by_any_angle_up_to_the_largest():
    maps = measured_maps(in_a_pipeline(OPERATIONS["rotation"], coordinates(), 1000))
    angles, shares = angle_and_share(maps)
    np.testing.assert_allclose(shares, 1, atol=OFF / 10)
    centre = [(SIZE - 1) / 2, (SIZE - 1) / 2, 1]
    np.testing.assert_allclose(maps @ centre, [centre[:2]] * 1000, atol=OFF)
    assert stats.kstest(angles, stats.uniform(-30, 60).cdf).pvalue > 0.01
    assert np.abs(angles).max() <= 30.001


def test_crop_shows_any_square_inside_the_image():
    augmented = in_a_pipeline(OPERATIONS["crop"], coordinates(), 1000)
    maps = measured_maps(augmented)
    angles, shares = angle_and_share(maps)
    np.testing.assert_allclose(angles, 0, atol=10 * OFF)
    assert stats.kstest(shares, stats.uniform(0.75, 0.25).cdf).pvalue > 0.01
    positions = []
    for axis in (0, 1):
        # A pixel is a square around its centre: the outermost edges of what is shown, from 0 to S.
        low = maps[:, axis, 2] - shares / 2 + 0.5
        high = low + shares * SIZE
        assert low.min() > -2 * OFF
        assert high.max() < SIZE + 2 * OFF
        room = SIZE * (1 - shares)
        positions.append((low / room)[room > 0.1])
        assert stats.kstest(positions[axis], "uniform").pvalue > 0.01
    assert abs(np.corrcoef(positions)[0, 1]) < 0.1
    # Nothing beyond the border is mirrored in: columns only rise to the right, rows downwards.
    assert (np.diff(augmented[..., 0], axis=2) >= 0).all()
    assert (np.diff(augmented[..., 1], axis=1) >= 0).all()


def test_in_all_together_each_is_drawn_over_its_whole_range():
    maps = measured_maps(in_a_pipeline(GEOMETRY["all four"], coordinates(), 1000))
    shares = np.sqrt(np.abs(np.linalg.det(maps[:, :, :2])))
    # Without the two flips: what was read is turned by less than a quarter, so signs on the diagonal tell them.
    flips = np.sign(np.diagonal(maps[:, :, :2], axis1=1, axis2=2))
    maps[:, :, :2] *= flips[:, np.newaxis]
    angles, _ = angle_and_share(maps)
    assert stats.kstest(angles, stats.uniform(-30, 60).cdf).pvalue > 0.01
    assert stats.kstest(shares, stats.uniform(0.75, 0.25).cdf).pvalue > 0.01
    assert np.abs(flips.mean(axis=0)).max() < 0.1
    assert np.abs(np.corrcoef([angles, shares, *flips.T]) - np.eye(4)).max() < 0.1


# What becomes of colours


@both_ways
def test_contrast_moves_colours_away_from_or_towards_their_mean(grey, apply):
    augmented = apply(OPERATIONS["contrast"], grey, 300)
    mean = grey.mean(axis=(0, 1))
    gains = ((augmented - mean) * (grey - mean)).sum(axis=(1, 2, 3)) / ((grey - mean) ** 2).sum()
    np.testing.assert_allclose(augmented, mean + gains[:, None, None, None] * (grey - mean), atol=1e-2)
    assert stats.kstest(gains, stats.uniform(0.8, 0.4).cdf).pvalue > 0.01


@both_ways
def test_brightness_adds_the_same_to_every_colour(grey, apply):
    augmented = apply(OPERATIONS["brightness"], grey, 300)
    added = (augmented - grey).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(augmented, grey + added[:, None, None, None], atol=1e-3)
    assert stats.kstest(added, stats.uniform(-25.5, 51).cdf).pvalue > 0.01


def test_contrast_and_brightness_together_are_both_drawn_over_their_whole_range(grey):
    mid = (grey - grey.mean(axis=(0, 1))) * 0.9 + 127.5  # 1.2 times its range and 25.5 more is still within 255
    augmented = in_a_pipeline(replace(IDENTITY, contrast=0.2, brightness=0.1), mid, 500)
    added = augmented.mean(axis=(1, 2, 3)) - 127.5
    gains = augmented.std(axis=(1, 2, 3)) / mid.std()
    expected = 127.5 + gains[:, None, None, None] * (mid - 127.5) + added[:, None, None, None]
    np.testing.assert_allclose(augmented, expected, atol=1e-2)
    assert stats.kstest(gains, stats.uniform(0.8, 0.4).cdf).pvalue > 0.01
    assert stats.kstest(added, stats.uniform(-25.5, 51).cdf).pvalue > 0.01
    assert abs(np.corrcoef(gains, added)[0, 1]) < 0.1


def test_what_is_brighter_than_white_is_white():
    white = np.full((SIZE, SIZE, 3), 250, np.float32)
    augmented = in_a_pipeline(OPERATIONS["brightness"], white, 64)[:, 0, 0, 0]
    assert augmented.max() == 255
    assert 8 < np.count_nonzero(augmented == 255) < 40  # more than 5 of -25.5 to 25.5: two in five


# CutMix and MixUp


def mixed_eagerly(mix, images, labels, count):
    return [mix(tf.constant(images), tf.constant(labels), tf.constant([4, index])) for index in range(count)]


def mixed_in_a_pipeline(mix, images, labels, count):
    seeds = tf.data.Dataset.range(count).map(lambda index: tf.stack([4, tf.cast(index, tf.int32)]))
    return list(seeds.map(lambda seed: mix(tf.constant(images), tf.constant(labels), seed)))


mixed_both_ways = pytest.mark.parametrize("mixed", [mixed_eagerly, mixed_in_a_pipeline])


def numbered(batch):
    """Return images (B, 16, 16, 3), number i all of colour i, and labels (B, B), number i in class i."""
    images = np.broadcast_to(np.arange(batch, dtype=np.float32)[:, None, None, None], (batch, 16, 16, 3))
    return np.ascontiguousarray(images), np.eye(batch, dtype=np.float32)


@mixed_both_ways
@pytest.mark.parametrize("batch", [8, 7, 1])  # of an odd number, the middle one is its own partner
def test_cutmix_labels_are_the_shares_of_the_pixels(mixed, batch):
    several = 0
    for images, labels in mixed(cutmix, *numbered(batch), 12):
        for image, label in zip(images.numpy(), labels.numpy(), strict=True):
            shares = [np.mean(image == number) for number in range(batch)]
            np.testing.assert_allclose(label, shares, atol=1e-6)
            several += np.count_nonzero(shares) > 1
    assert batch == 1 or several > 30


@mixed_both_ways
def test_cutmix_pastes_one_rectangle_of_the_partner_in_its_place(mixed):
    photographs = np.random.default_rng(7).uniform(0, 255, (6, 16, 16, 3)).astype(np.float32)
    for images, _ in mixed(cutmix, photographs, np.eye(6, dtype=np.float32), 8):
        for image, own, partner in zip(images.numpy(), photographs, photographs[::-1], strict=True):
            pasted = (image == partner).all(axis=-1)
            np.testing.assert_array_equal(image, np.where(pasted[..., None], partner, own))
            np.testing.assert_array_equal(pasted, np.outer(pasted.any(axis=1), pasted.any(axis=0)))
            for side in (pasted.any(axis=0), pasted.any(axis=1)):
                assert np.count_nonzero(np.diff(side.astype(int))) <= 2  # without a gap


def test_cutmix_pastes_a_third_of_the_pixels_on_average():
    # A square of area u with its centre anywhere keeps, inside, sqrt(u) - u / 4 of each side on average: squared and
    # averaged over u that is 1/2 - 1/2 * 2/5 + 1/16 * 1/3 = 0.3208.
    images, labels = tf.zeros((4000, 64, 64, 1)), tf.one_hot([0, 1] * 2000, 2)
    _, mixed = cutmix(images, labels, (0, 0))
    partner = np.where(np.arange(4000) % 2 == 0, mixed[:, 1], mixed[:, 0])
    assert partner.mean() == pytest.approx(0.3208, abs=0.015)


@mixed_both_ways
@pytest.mark.parametrize("batch", [8, 7, 1])
def test_mixup_labels_are_the_shares_of_the_colours(mixed, batch):
    originals, one_hot = numbered(batch)
    for images, labels in mixed(mixup, originals, one_hot, 12):
        for image, label, number in zip(images.numpy(), labels.numpy(), range(batch), strict=True):
            partner = batch - 1 - number
            assert set(np.flatnonzero(label)) <= {number, partner}
            np.testing.assert_allclose(image, label @ np.arange(batch), atol=1e-5)


def test_mixup_draws_its_share_from_beta_and_keeps_each_image_the_main_one_of_its_blend():
    _, labels = mixup(tf.zeros((4000, 1, 1, 3)), tf.one_hot([0, 1] * 2000, 2), (0, 0))
    partner = np.where(np.arange(4000) % 2 == 0, labels[:, 1], labels[:, 0])
    assert partner.max() <= 0.5
    assert stats.kstest(partner, lambda share: 2 * stats.beta(0.2, 0.2).cdf(share)).pvalue > 0.01  # folded at a half


@mixed_both_ways
@pytest.mark.parametrize("mix", [cutmix, mixup])
def test_labels_of_a_mixed_batch_are_distributions(mixed, mix):
    soft = np.random.default_rng(8).dirichlet(np.ones(5), 6).astype(np.float32)
    draws = [labels.numpy() for _, labels in mixed(mix, numbered(6)[0], soft, 12)]
    assert len(np.unique(draws, axis=0)) == 12
    for labels in draws:
        assert labels.min() >= 0
        np.testing.assert_allclose(labels.sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("mix", [cutmix, mixup])
def test_the_same_seed_mixes_the_same_and_each_image_its_own_way(mix):
    images, labels = (tf.constant(array) for array in numbered(8))
    one, again, other = (mix(images, labels, seed)[1].numpy() for seed in ((1, 2), (1, 2), (1, 3)))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
    assert len(np.unique(one.max(axis=1).round(5))) > 4


def test_with_probability_mixes_its_fraction_of_the_batches_and_leaves_the_others():
    images, labels = tf.constant(numbered(4)[0]), tf.eye(4)
    half = with_probability(cutmix, 0.5)
    seeds = [(7, number) for number in range(200)]
    mixed = 0
    for seed in seeds:
        mixed_batch = half(images, labels, tf.constant(seed))
        whole = cutmix(images, labels, tf.constant(seed))
        plain = all(np.array_equal(one, other) for one, other in zip(mixed_batch, (images, labels), strict=True))
        assert plain or all(np.array_equal(one, other) for one, other in zip(mixed_batch, whole, strict=True))
        mixed += not plain
    assert 80 < mixed < 120  # 100 expected, 7 the standard deviation
    assert with_probability(MIXES["none"], 0.5) is None
