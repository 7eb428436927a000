"""Temperature scaling against what is known of the labels, another search, and where there is nothing to fit."""

import numpy as np
import pytest

from flowerlib.predictions import calibrate, cross_calibrated, fit_temperature, metrics

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 2, (4000, 5))


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


LABELS = (softmax(LOGITS).cumsum(axis=1) < RNG.random((4000, 1))).sum(axis=1)  # drawn as the logits say


@pytest.mark.parametrize("factor", [0.25, 1.0, 3.0])
def test_the_factor_of_scaled_logits_is_recovered(factor):
    temperature = fit_temperature(softmax(factor * LOGITS), LABELS)
    assert temperature == pytest.approx(factor, rel=0.05)  # the labels are a sample
    assert temperature == pytest.approx(factor * fit_temperature(softmax(LOGITS), LABELS), rel=1e-6)
    np.testing.assert_allclose(calibrate(softmax(factor * LOGITS), factor), softmax(LOGITS), atol=1e-12)


def test_no_other_temperature_gives_a_smaller_log_loss():
    probabilities = softmax(3 * LOGITS[:300])
    found = fit_temperature(probabilities, LABELS[:300])
    others = found * np.geomspace(0.5, 2, 2001)
    losses = [metrics.log_loss(LABELS[:300], calibrate(probabilities, temperature)) for temperature in others]
    assert others[np.argmin(losses)] == pytest.approx(found, rel=1e-3)


def test_the_worked_example():
    """Where all say 4 to 1 and two thirds are right, 2 to 1 is meant, the square root: the temperature is 2."""
    probabilities, labels = np.tile([0.8, 0.2], (9, 1)), np.array([0] * 6 + [1] * 3)
    assert fit_temperature(probabilities, labels) == pytest.approx(2)
    np.testing.assert_allclose(calibrate(probabilities, 2.0), np.tile([2 / 3, 1 / 3], (9, 1)))


@pytest.mark.parametrize("temperature", [0.05, 0.7, 1.0, 20.0])
def test_it_is_the_softmax_of_divided_logits_and_keeps_the_order_of_classes(temperature):
    probabilities = softmax(LOGITS[:100]).astype(np.float32)
    calibrated = calibrate(probabilities, temperature)
    assert calibrated.dtype == np.float32
    np.testing.assert_allclose(calibrated, softmax(LOGITS[:100] / temperature), atol=1e-5)
    np.testing.assert_allclose(calibrated.sum(axis=1), 1, rtol=1e-6)
    rising = np.take_along_axis(calibrated, probabilities.argsort(axis=1), axis=1)
    assert (np.diff(rising, axis=1) >= 0).all()
    assert (rising[:, -1] > rising[:, -2]).all()


def test_certainty_stays_certain():
    np.testing.assert_array_equal(calibrate(np.array([[1.0, 0.0], [0.0, 1.0]]), 20.0), [[1, 0], [0, 1]])


@pytest.mark.parametrize("probabilities", [[[1.0, 0.0]], [[0.6, 0.4]], [[0.6, 0.4], [0.9, 0.1]], np.empty((0, 2))])
@pytest.mark.parametrize("label", [0, 1])
def test_images_that_are_all_right_or_all_wrong_tell_nothing(probabilities, label):
    probabilities = np.array(probabilities)
    assert fit_temperature(probabilities, np.full(len(probabilities), label)) == 1.0


def test_the_temperature_is_bounded():
    """Sure and wrong nine times in ten, worse than chance, even where the truth got a probability of 0."""
    sure = np.tile([1.0, 0.0, 0.0], (10, 1))
    assert fit_temperature(sure, np.array([0] + [1] * 9)) == pytest.approx(20)
    nearly_alike = np.tile([0.5001, 0.4999], (1000, 1))
    assert fit_temperature(nearly_alike, np.array([1] + [0] * 999)) == pytest.approx(0.05)


def test_no_image_is_calibrated_with_the_help_of_its_own_label():
    probabilities, labels = softmax(2 * LOGITS[:20]), LABELS[:20]
    before = cross_calibrated(probabilities, labels)
    changed = np.zeros(20, bool)
    for image in range(20):
        others = labels.copy()
        others[image] = (others[image] + 1) % 5
        after = cross_calibrated(probabilities, others)
        np.testing.assert_array_equal(after[image], before[image])
        changed |= (after != before).any(axis=1)
    assert changed.all()  # by the labels of others


def test_cross_fitting_judges_as_new_images_do():
    """The images are drawn from what the model is calibrated to: on all others its temperature is as good."""
    overconfident = softmax(3 * LOGITS)
    crossed = metrics.expected_calibration_error(LABELS, cross_calibrated(overconfident, LABELS))
    new = calibrate(overconfident[2000:], fit_temperature(overconfident[:2000], LABELS[:2000]))
    assert crossed == pytest.approx(metrics.expected_calibration_error(LABELS[2000:], new), abs=0.02)
    assert metrics.expected_calibration_error(LABELS, overconfident) > 5 * crossed
