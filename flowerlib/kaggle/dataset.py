"""Upload the pretrained weights as a Kaggle dataset, for kernels without internet."""

import json
from datetime import timedelta
from pathlib import Path

from flowerlib.config import atomic_write
from flowerlib.kaggle.clock import Clock
from flowerlib.kaggle.errors import Unreachable
from flowerlib.kaggle.kernels import WEIGHTS_SLUG
from flowerlib.kaggle.service import Service
from flowerlib.networks import backbones, weights

TITLE = "Flowerlib weights"  # Kaggle derives WEIGHTS_SLUG from it
READY_HOURS = 2.0  # that Kaggle may take to process it, before it is no longer waited for


def upload(folder: Path, *, user: str | None = None, poll: float = 10.0) -> str:
    """Fetch all pretrained weights into a folder, upload them as a private dataset, and wait until it can be attached.

    A dataset that exists gets a new version.

    Args:
        folder: gets the weights; those that are there already are verified and kept.
        user: the owner on Kaggle; the logged-in user unless given.
        poll: seconds between two polls of the dataset.

    Returns:
        The dataset, `owner/flowerlib-weights`.

    Raises:
        FlowersError: weights cannot be downloaded, or there are no credentials.
        RuntimeError: Kaggle refused the dataset, or is not done with it in time, or a file could not be uploaded.
    """
    service = Service()
    ref = f"{user or service.user}/{WEIGHTS_SLUG}"
    files = weights.fetch_all([row.weights for row in backbones.BACKBONES.values()], folder)
    with atomic_write(folder / "dataset-metadata.json") as temporary:
        temporary.write_text(json.dumps(_metadata(ref), indent=2) + "\n", encoding="utf-8")
    print(f"Uploading {len(files)} files, {sum(file.stat().st_size for file in files) / 1e9:.2f} GB, as {ref}")
    service.upload_dataset(folder, [file.name for file in files], new=service.dataset_state(ref) is None)
    wait_until_ready(service, ref, poll, Clock())
    return ref


def _metadata(ref: str) -> dict:
    lines = [
        f"- `{row.weights.name}`: {row.name}. {row.weights.source}. {row.paper}" for row in backbones.BACKBONES.values()
    ]
    return {
        "title": TITLE,
        "id": ref,
        "licenses": [{"name": "apache-2.0"}],
        "subtitle": "Pretrained networks for the flower notebooks",
        "description": "Weights as their authors published them, for notebooks with internet off:\n\n"
        + "\n".join(lines),
        "keywords": [],
    }


def wait_until_ready(service: Service, ref: str, poll: float, clock: Clock) -> None:
    """Poll until Kaggle has processed the dataset, across interruptions of the connection.

    Raises:
        RuntimeError: Kaggle could not process it, or did not within `READY_HOURS`.
    """
    address, end = f"https://www.kaggle.com/datasets/{ref}", clock.now() + timedelta(hours=READY_HOURS)
    shown = ""
    while shown != "ready":
        clock.sleep(poll if shown else 0)
        try:
            state = service.dataset_state(ref) or "not created yet"
        except Unreachable as error:
            state = str(error)
        if state in ("failed", "deleted"):
            raise RuntimeError(f"Kaggle could not process {ref}: it is {state}; see {address}")
        if state != "ready" and clock.now() > end:
            raise RuntimeError(f"{ref} is uploaded, but not ready after {READY_HOURS:g} h ({state}); see {address}")
        if state != shown:
            print(f"{ref}: {state}", flush=True)
        shown = state
