"""A notebook's parameters become a configuration; every number is worked out by hand."""

import math
from dataclasses import asdict

import pytest
from tiny import CPU, TPU

from flowerlib import training
from flowerlib.config import FlowersError

PARAMETERS = {
    "NAME": "10_tiny",
    "BACKBONE": "DenseNet201",
    "IMAGE_SIZE": 512,
    "EVAL_SIZE": 576,
    "TTA_SIZES": (512, 576),
    "TTA_FLIP": True,
    "BATCH_SIZE": 8,
    "EPOCHS": 4,
    "WARMUP_EPOCHS": 2,
    "PEAK_LR": 0.05,
    "WEIGHT_DECAY": 0.01,
    "LABEL_SMOOTHING": 0.1,
    "DROPOUT": 0.3,
    "MIX": "cutmix",
    "NUM_AUGMENTED_VIEWS": 4,
    "HOURS": 8.5,
    "SEED": 3,
}
CONFIG = training.TrainConfig(**{name.lower(): value for name, value in PARAMETERS.items()})


def configured(device, without=(), **parameters):
    given = PARAMETERS | parameters
    return training.configure({name: value for name, value in given.items() if name not in without}, device)


def test_upper_case_names_become_fields_and_all_others_are_passed_over():
    others = {"name": "lower", "Epochs": 9, "In": ["a notebook's own"], "PEAK_LRS": (1, 2), "Path": str}
    assert configured(TPU, **others) == CONFIG
    assert configured(TPU, without=("HOURS", "SEED", "MIX")) == training.TrainConfig(
        **asdict(CONFIG) | {"hours": None, "seed": 0, "mix": "none"}
    )


def test_a_run_shrinks_on_a_cpu_and_says_so_in_one_line(capsys):
    config = configured(CPU)
    assert config.smoke_test
    assert (config.image_size, config.eval_size, config.tta_sizes, config.tta_flip) == (72, None, (), False)
    assert (config.epochs, config.steps, config.warmup_epochs, config.batch_size) == (2, 2, 1, 4)
    assert config.num_augmented_views == 0
    assert config.stored_size is None  # the smallest there is
    assert (config.name, config.submission.name) == ("10_tiny-smoke-test", "submission_smoke_test.csv")
    printed = capsys.readouterr().out
    assert printed.startswith("SMOKE TEST on CPU")
    assert printed.count("\n") == 1
    same = ("backbone", "fine_tune", "peak_lr", "weight_decay", "label_smoothing", "dropout", "mix", "hours", "seed")
    assert {name: getattr(config, name) for name in same} == {name: getattr(CONFIG, name) for name in same}


def test_each_replica_of_a_smoke_test_gets_four_images(monkeypatch):
    monkeypatch.setenv("FLOWERS_PROFILE", "smoke")
    assert configured(TPU).batch_size == 32


def test_each_replica_gets_its_batch(capsys):
    config = configured(TPU, without=("BATCH_SIZE",), BATCH_PER_REPLICA=16)
    assert config == training.TrainConfig(**asdict(CONFIG) | {"batch_size": 128})
    assert configured(TPU, BATCH_PER_REPLICA=16) == config  # and not BATCH_SIZE
    assert configured(CPU, SHRINK=False, BATCH_PER_REPLICA=16).batch_size == 16
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("given", "taken"), [(8, 8), (15, 8), (32, 32), (33, 32), (127, 120), (7, 8), (1, 8)])
def test_a_global_batch_is_rounded_to_whole_shares_of_eight_replicas(given, taken):
    assert configured(TPU, BATCH_SIZE=given).batch_size == taken
    assert configured(CPU, SHRINK=False, BATCH_SIZE=given).batch_size == given


def test_the_learning_rate_follows_the_batch_by_the_square_root():
    """Given for 32; eight replicas of 16 make 128, and the rate is sqrt(128 / 32) = 2 times as high."""
    assert configured(TPU, LR_BATCH_SIZE=32, BATCH_PER_REPLICA=16).peak_lr == pytest.approx(0.1)
    assert configured(TPU, LR_BATCH_SIZE=32, BATCH_PER_REPLICA=8).peak_lr == pytest.approx(0.05 * math.sqrt(2))
    assert configured(TPU, LR_BATCH_SIZE=64, BATCH_PER_REPLICA=8).peak_lr == 0.05
    assert configured(TPU, LR_BATCH_SIZE=64, BATCH_PER_REPLICA=4).peak_lr == pytest.approx(0.05 / math.sqrt(2))
    assert configured(CPU, LR_BATCH_SIZE=32, BATCH_PER_REPLICA=2).peak_lr == 0.05  # a smoke test's


def test_a_run_that_must_not_shrink_does_not(capsys):
    assert configured(CPU, SHRINK=False) == CONFIG
    assert configured(CPU, SHRINK=True).smoke_test
    assert "SMOKE TEST" in capsys.readouterr().out


def test_the_profile_overrides_the_device(monkeypatch):
    monkeypatch.setenv("FLOWERS_PROFILE", "full")
    assert configured(CPU) == CONFIG
    monkeypatch.setenv("FLOWERS_PROFILE", "smoke")
    assert configured(TPU).smoke_test
    assert not configured(TPU, SHRINK=False).smoke_test
    monkeypatch.setenv("FLOWERS_PROFILE", "rehearsal")  # its name in earlier versions
    assert configured(TPU).smoke_test
    monkeypatch.setenv("FLOWERS_PROFILE", "fast")
    with pytest.raises(FlowersError, match=r"`FLOWERS_PROFILE` \(=fast\) must be full or smoke"):
        configured(CPU)


def test_networks_side_by_side_stand_in_place_of_a_backbone(capsys):
    given = {"NETWORKS": ("EfficientNetLite0", "EfficientNetLite2"), "SIZES": (192, 288)}
    config = configured(TPU, without=("BACKBONE",), **given)
    assert config == configured(TPU, without=("BACKBONE",), **{name: list(value) for name, value in given.items()})
    assert (config.backbone, config.networks, config.sizes) == ("EfficientNetLite0+EfficientNetLite2", *given.values())
    shrunk = configured(CPU, without=("BACKBONE",), **given)
    assert (shrunk.networks, shrunk.sizes, shrunk.image_size) == (given["NETWORKS"], (72,), 72)
    assert configured(CPU).sizes == ()
    assert "SMOKE TEST" in capsys.readouterr().out


def test_an_endless_warm_up_is_an_error():
    with pytest.raises(FlowersError, match=r"`epochs` \(=3\) must be more than `warmup_epochs` \(=3\)"):
        configured(CPU, EPOCHS=3, WARMUP_EPOCHS=3)


@pytest.mark.parametrize(
    ("name", "submission"),
    [("10_a", "submission.csv"), ("10_a-unfinished", "submission_unfinished.csv"), ("smoke-test-a", "submission.csv")],
)
def test_a_submission_of_no_result_has_a_name_of_its_own(name, submission):
    assert configured(TPU, NAME=name).submission.as_posix() == submission


@pytest.mark.parametrize("missing", ["NAME", "BACKBONE", "BATCH_SIZE", "EPOCHS"])
def test_a_missing_parameter_is_named(missing):
    with pytest.raises(FlowersError, match=rf"the parameter `{missing}` is missing; set it in the cell of parameters"):
        configured(TPU, without=[missing])
