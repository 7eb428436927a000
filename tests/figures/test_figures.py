import io

import numpy as np
import pandas as pd
import pytest
from IPython.core.formatters import DisplayFormatter
from matplotlib import pyplot
from matplotlib.colors import to_hex
from PIL import Image

from flowerlib import figures

HISTORY = {
    "loss": [2.0, 1.0, 0.5],
    "accuracy": [0.3, 0.6, 0.8],
    "val_loss": [1.8, 0.9, 1.0],
    "val_accuracy": [0.4, 0.75, 0.7],
    "val_macro_f1": [0.35, 0.7, 0.65],
}
RUNS = pd.DataFrame(
    {
        "name": ["small", "average", "large"],
        "val_macro_f1": [0.91, 0.97, 0.95],
        "val_accuracy": [0.92, 0.975, 0.955],
        "val_loss": [0.3, 0.2, 0.25],
        "seconds_per_epoch": [30.0, np.nan, 120.0],
        "parameters": [5e6, np.nan, 2.068e8],
        "smoke_test": [True, False, False],
    }
)
DEVICES = pd.DataFrame(
    {
        "device": ["8 x TPU", "1 x CPU"],
        "seconds_per_epoch": [25.0, 4100.0],
        "compile_seconds": [85.0, np.nan],
        "images_per_second": [510.0, 3.1],
        "smoke_test": [False, True],
    }
)
REPORT = pd.DataFrame({"class": list("ceabd"), "f1": [0.2, 0.5, 0.7, 0.9, 1.0]})
CONFUSION = np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]])
AGREEMENT = np.array([[1.0, 0.875], [0.875, 1.0]])
NAMES_104 = [f"class {label}" for label in range(104)]
PAIRS = pd.DataFrame({"true": ["iris", "rose"], "predicted": ["yellow iris", "camellia"], "count": [9, 4]})
SIZES = {"train": np.arange(1.0, 31.0), "val": np.arange(1.0, 9.0)}
IGNORED = pd.DataFrame({"ignored": [0, 1, 2], "accuracy": [1, 0.9, 0.7], "macro_f1": [1, 0.6, 0.3]})
IMAGES = np.arange(5)[:, None, None, None] * np.full((5, 8, 8, 3), 50.0)
BINS = (np.array([0, 0.25, 0.75]), np.array([np.nan, 0.5, 0.9]), np.array([np.nan, 0.8, 0.9]))
RATES = np.concatenate([np.linspace(1e-4, 1e-3, 10), np.linspace(1e-3, 1e-5, 20)])
FIGURES = {
    "gallery": lambda: figures.gallery(IMAGES, list("abcde"), columns=3),
    "no gallery": lambda: figures.gallery([]),
    "activation_maps": lambda: figures.activation_maps(IMAGES, np.ones((5, 2, 2)), list("abcde")),
    "no activation_maps": lambda: figures.activation_maps([], []),
    "rows": lambda: figures.rows(IMAGES[None, :4], ["flip"], column_titles=["original"]),
    "class_counts": lambda: figures.class_counts({"train": np.array([5, 9, 0])}, ["iris", "rose", "lotus"]),
    "class_colours": lambda: figures.class_colours(np.full((3, 4, 3), 128.0), ["iris", "rose", "lotus"]),
    "file_sizes": lambda: figures.file_sizes(SIZES),
    "ignored_classes": lambda: figures.ignored_classes(IGNORED),
    "curves": lambda: figures.curves(HISTORY),
    "curves of one epoch": lambda: figures.curves({key: values[:1] for key, values in HISTORY.items()}),
    "learning_rates": lambda: figures.learning_rates(RATES, 10),
    "confused_pairs": lambda: figures.confused_pairs(PAIRS),
    "no confused_pairs": lambda: figures.confused_pairs(PAIRS.head(0)),
    "class_f1": lambda: figures.class_f1(REPORT),
    "confusion_matrix": lambda: figures.confusion_matrix(CONFUSION, ["iris", "rose", "lotus"]),
    "confusion_matrix of 104": lambda: figures.confusion_matrix(np.eye(104), NAMES_104),
    "reliability": lambda: figures.reliability({"before": BINS, "after": BINS}),
    "similarity": lambda: figures.similarity(AGREEMENT, ["10_densenet201", "11_xception"], "same prediction"),
    "recap": lambda: figures.recap(RUNS),
    "recap of the average alone": lambda: figures.recap(RUNS[1:2]),
    "weights": lambda: figures.weights(["large", "small"], [0.75, 0.25]),
    "seconds_per_epoch": lambda: figures.seconds_per_epoch(DEVICES),
}


@pytest.fixture(autouse=True)
def nothing_left_open():
    yield
    figures.watermark(None)
    assert pyplot.get_fignums() == []


def texts(figure):
    """All that is written in a figure, as a set of lines."""
    figure.draw_without_rendering()
    return {text.get_text() for text in figure.findobj(pyplot.Text)}


def line(axes, label):
    return next(line for line in axes.lines if line.get_label() == label)


def tick_names(axes):
    return [text.get_text() for text in axes.get_yticklabels()]


def widths(axes):
    return [bar.get_width() for bar in axes.patches]


def test_train_and_val_are_told_apart_without_colour_vision():
    def luminance(colour):
        return np.array([0.2126, 0.7152, 0.0722]) @ [int(colour[i : i + 2], 16) for i in (1, 3, 5)]

    assert luminance(figures.VAL) - luminance(figures.TRAIN) > 15


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
def test_every_figure_shows_itself_in_a_notebook_a_thousand_pixels_wide(draw):
    shown, _ = DisplayFormatter().format(draw())
    picture = Image.open(io.BytesIO(shown["image/png"]))
    assert picture.width == 1000
    assert 50 < picture.height < 1000
    assert len(picture.convert("RGB").getcolors(1 << 20)) > 1


@pytest.mark.parametrize("watermark", [None, "SMOKE TEST"])
@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
def test_nothing_is_cut_off_by_the_border(draw, watermark):
    figures.watermark(watermark)
    figure = draw()
    figure.draw_without_rendering()
    drawn = figure.get_tightbbox()  # inches
    assert min(drawn.x0, drawn.y0) > -0.02
    assert drawn.x1 < figure.get_figwidth() + 0.02
    assert drawn.y1 < figure.get_figheight() + 0.02


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
def test_the_watermark_is_on_every_figure_made_after_it_and_on_none_after_it_is_taken_away(draw):
    def marks(figure, mark):
        return [text for text in figure.findobj(pyplot.Text) if text.get_text() == mark]

    before = draw()
    figures.watermark("SMOKE TEST")
    [mark] = marks(draw(), "SMOKE TEST")
    assert (mark.get_position(), mark.get_zorder()) == ((0.5, 0.5), 9)  # in the middle, above all else
    figures.watermark("DRAFT")
    another = draw()
    assert (len(marks(another, "DRAFT")), marks(another, "SMOKE TEST")) == (1, [])
    figures.watermark(None)
    assert marks(draw(), "SMOKE TEST") == marks(draw(), "DRAFT") == marks(before, "SMOKE TEST") == []


def test_every_figure_has_its_case_here():
    drawn = {name.removeprefix("no ").split(" of ")[0] for name in FIGURES}
    functions = {name for name in figures.__all__ if callable(getattr(figures, name)) and name.islower()}
    assert functions - drawn == {"label_texts", "legible", "lit_by_map", "watermark"}


def test_gallery_shows_each_image_once_with_its_title():
    figure = figures.gallery(IMAGES, list("abcde"), columns=3)
    assert [axes.get_title() for axes in figure.axes] == list("abcde")
    for axes, image in zip(figure.axes, IMAGES, strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), image)


def test_gallery_takes_values_beyond_the_range_and_between_whole_numbers():
    figure = figures.gallery(np.array([-3.0, 99.6, 260.0]).reshape(1, 1, 1, 3))
    assert figure.axes[0].images[0].get_array().ravel().tolist() == [0, 100, 255]


def test_gallery_frames_the_marked_images_only():
    figure = figures.gallery(IMAGES, list("abcde"), marks=[False, True, False, False, True])
    framed = [axes.spines["left"].get_visible() for axes in figure.axes]
    assert framed == [False, True, False, False, True]
    assert [axes.title.get_color() == figures.MARKED for axes in figure.axes] == framed


def test_gallery_breaks_long_titles_between_the_two_names():
    title = "hard-leaved pocket orchid 63 % / iris 37 %"
    figure = figures.gallery(IMAGES[:1], [title], columns=6)
    assert figure.axes[0].get_title().endswith("63 %\niris 37 %")
    assert figures.gallery(IMAGES[:1], [title], columns=1).axes[0].get_title() == title


def test_rows_has_an_image_for_each_row_and_column():
    images = np.stack([IMAGES[:3], IMAGES[1:4]])
    figure = figures.rows(images, ["flip", "crop"], column_titles=["original"])
    assert [axes.get_ylabel() for axes in figure.axes] == ["flip", "", "", "crop", "", ""]
    assert [axes.get_title() for axes in figure.axes] == ["original", *[""] * 5]
    shown = [axes.images[0].get_array()[0, 0, 0] for axes in figure.axes]
    assert shown == [0, 50, 100, 50, 100, 150]


def test_label_texts():
    labels = np.array([[0.0, 0.37, 0.63], [1, 0, 0], [0.996, 0.004, 0], [0.25, 0.5, 0.25]])
    written = [
        text.replace("\N{NO-BREAK SPACE}", " ") for text in figures.label_texts(labels, ["lily", "rose", "iris"])
    ]
    assert written == ["iris 63 % / rose 37 %", "lily 100 %", "lily 100 %", "rose 50 % / lily 25 % / iris 25 %"]


def test_class_counts_puts_the_largest_class_first_and_every_count_in_its_row():
    rng = np.random.default_rng(0)
    names = [f"class {label}" for label in range(104)]
    counts = {"train": rng.integers(0, 5, 104) * 7, "val": rng.integers(0, 3, 104)}
    figure = figures.class_counts(counts, names)
    rows = [(axes, row, name) for axes in figure.axes for row, name in enumerate(tick_names(axes))]
    shown = {"train": {}, "val": {}}
    for axes, row, name in rows:
        for split, found in shown.items():
            dots = line(axes, split)
            found[name] = dict(zip(dots.get_ydata(), dots.get_xdata(), strict=True)).get(row, 0)
            assert to_hex(dots.get_color()).upper() == figures.COLOURS[split]
    for split, found in shown.items():
        assert found == dict(zip(names, counts[split], strict=True))
    in_order = [shown["train"][name] for _, _, name in rows]
    assert in_order == sorted(in_order, reverse=True)
    empty = sum(text.get_text() == "no image" for axes in figure.axes for text in axes.texts)
    assert empty == np.sum((counts["train"] == 0) & (counts["val"] == 0)) > 0


def test_class_colours_keeps_each_strip_beside_its_name():
    strips = np.repeat(np.arange(40.0), 15).reshape(40, 5, 3)
    figure = figures.class_colours(strips, [str(row) for row in range(40)])
    shown = [
        (int(name), int(row[0, 0]))
        for axes in figure.axes
        for name, row in zip(tick_names(axes), axes.images[0].get_array(), strict=True)
    ]
    assert shown == [(row, row) for row in range(40)]


def test_file_sizes_are_shares_of_each_split():
    steps = figures.file_sizes(SIZES).axes[0].patches
    for patch in steps:
        assert sum(patch.get_data()[0]) == pytest.approx(100)
        assert patch.get_data()[1][[0, -1]] == pytest.approx([1, 30])
    assert [patch.get_label() for patch in steps] == ["train", "val"]


def test_ignored_classes():
    axes = figures.ignored_classes(IGNORED).axes[0]
    for label, column in (("accuracy", "accuracy"), ("macro F1", "macro_f1")):
        assert list(line(axes, label).get_ydata()) == list(IGNORED[column])
        assert list(line(axes, label).get_xdata()) == [0, 1, 2]


def test_curves_count_epochs_from_one_and_mark_the_last_the_one_kept_in_both_panels():
    scores, losses = figures.curves(HISTORY).axes
    for axes, label, key, colour in (
        (scores, "train", "accuracy", figures.TRAIN),
        (scores, "val", "val_accuracy", figures.VAL),
        (scores, "val macro F1", "val_macro_f1", figures.VAL),
        (losses, "train", "loss", figures.TRAIN),
        (losses, "val", "val_loss", figures.VAL),
    ):
        drawn = line(axes, label)
        assert list(drawn.get_xdata()) == [1, 2, 3]
        assert list(drawn.get_ydata()) == HISTORY[key]
        assert drawn.get_color() == colour
    for axes in (scores, losses):
        assert list(line(axes, "kept: epoch 3 (macro F1 0.6500)").get_xdata()) == [3, 3]


def test_learning_rates_run_from_epoch_one_to_the_end_of_the_last():
    axes = figures.learning_rates(RATES, 10).axes[0]
    curve, peak = axes.lines
    np.testing.assert_allclose(curve.get_xdata(), 1 + np.arange(30) / 10)
    np.testing.assert_array_equal(curve.get_ydata(), RATES)
    assert list(peak.get_xdata()) == [1.9]
    assert "peak 1.0e-03, end 1.0e-05" in texts(axes.figure)


def test_confused_pairs():
    axes = figures.confused_pairs(PAIRS).axes[0]
    assert tick_names(axes) == ["iris → yellow iris", "rose → camellia"]
    assert widths(axes) == [9, 4]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first on top


def test_class_f1_shows_the_worst_of_the_report_and_the_mean_of_all():
    axes = figures.class_f1(REPORT, worst=3).axes[0]
    assert tick_names(axes) == ["c", "e", "a"]
    assert widths(axes) == [0.2, 0.5, 0.7]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first on top
    assert list(line(axes, "macro F1 of all classes: 0.6600").get_xdata()) == pytest.approx([0.66, 0.66])
    assert len(widths(figures.class_f1(REPORT, worst=10).axes[0])) == 5


def test_confusion_matrix_has_true_classes_in_rows_as_fractions_of_each():
    figure = figures.confusion_matrix(CONFUSION, ["iris", "rose", "lotus"])
    axes, bar = figure.axes
    np.testing.assert_array_equal(axes.images[0].get_array(), [[0.75, 0.25, 0], [0, 1, 0], [0, 0, 0]])
    assert axes.images[0].get_clim() == (0, 1)
    assert tick_names(axes) == [text.get_text() for text in axes.get_xticklabels()] == ["iris", "rose", "lotus"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
    assert bar.get_ylabel() == "fraction of the true class"
    many = figures.confusion_matrix(np.eye(31), [f"class {label}" for label in range(31)])
    assert "class 0" not in texts(many)


def test_reliability_has_accuracy_above_and_the_share_of_images_below_each_bin_of_confidence():
    figure = figures.reliability({"before": BINS, "after": (BINS[0], BINS[1], np.array([np.nan, 0.4, 1.0]))})
    before, after, share, _ = figure.axes
    assert [bar.get_height() for bar in before.patches] == [0, 0.8, 0.9]
    assert [bar.get_height() for bar in after.patches] == [0, 0.4, 1.0]
    assert [bar.get_height() for bar in share.patches] == [0, 0.25, 0.75]
    assert [bar.get_x() for bar in before.patches] == pytest.approx([0, 1 / 3, 2 / 3])
    np.testing.assert_array_equal(line(before, "the same at its mean confidence").get_xdata(), BINS[1])
    assert list(line(before, "calibrated: accuracy equals confidence").get_ydata()) == [0, 1]
    assert (before.get_title(), after.get_title()) == ("before", "after")


def test_similarity_writes_each_value_in_its_cell():
    axes, bar = figures.similarity(AGREEMENT, ["10_densenet201", "11_xception"], "same prediction").axes
    written = {text.get_position(): text.get_text() for text in axes.texts}
    assert written == {(0, 0): "1.00", (1, 0): "0.88", (0, 1): "0.88", (1, 1): "1.00"}
    np.testing.assert_array_equal(axes.images[0].get_array(), AGREEMENT)
    assert axes.images[0].get_clim() == (0.5, 1)
    assert tick_names(axes) == ["10_densenet201", "11_xception"]
    assert bar.get_ylabel() == "same prediction"
    low = figures.similarity(np.array([[1, 0.2], [0.2, 1]]), ["a", "b"], "").axes[0].images[0]
    assert low.get_clim() == (0.2, 1)


def test_recap_has_the_best_first_and_smoke_tests_hollow():
    figure = figures.recap(RUNS)
    scores, seconds = figure.axes
    names = ["average", "large\n206.8 M parameters", "small (smoke test)\n5.0 M parameters"]
    assert tick_names(scores) == names
    accuracy, macro_f1 = scores.collections
    np.testing.assert_array_equal(macro_f1.get_offsets(), [(0.97, 0), (0.95, 1), (0.91, 2)])
    np.testing.assert_array_equal(accuracy.get_offsets()[:, 0], [0.975, 0.955, 0.92])
    assert [to_hex(face) == "#ffffff" for face in macro_f1.get_facecolors()] == [False, False, True]
    assert widths(seconds) == [0, 120, 30]
    assert [bar.get_hatch() for bar in seconds.patches] == [None, None, "///"]
    assert {"0.9700", "0.9500", "0.9100", "120", "30.0", "\N{EN DASH}"} <= texts(figure)


def test_weights_keep_their_order():
    axes = figures.weights(["large", "small"], [0.75, 0.25]).axes[0]
    assert tick_names(axes) == ["large", "small"]
    assert widths(axes) == [0.75, 0.25]


def test_seconds_per_epoch_has_a_panel_for_each_measure():
    figure = figures.seconds_per_epoch(DEVICES)
    assert [widths(axes) for axes in figure.axes] == [[25, 4100], [85, 0], [510, 3.1]]
    assert tick_names(figure.axes[0]) == ["8 x TPU", "1 x CPU (smoke test)"]
    assert [[bar.get_hatch() for bar in axes.patches] for axes in figure.axes] == [[None, "///"]] * 3
    assert {"25.0", "4,100", "85.0", "\N{EN DASH}", "510", "3.1"} <= texts(figure)
