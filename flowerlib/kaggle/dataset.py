"""The pretrained weights as a Kaggle dataset, for kernels with internet off."""

import json
import time
from pathlib import Path

from flowerlib.config import atomic_write
from flowerlib.kaggle.kernels import WEIGHTS_SLUG
from flowerlib.kaggle.service import Service, Unreachable
from flowerlib.networks import backbones, weights

TITLE = "Flowerlib weights"  # Kaggle makes WEIGHTS_SLUG of it


def send(folder: Path, *, user: str | None = None, poll: float = 10.0) -> str:
    """Fetch every network's weights into a folder, send them as a private dataset, and wait until it can be attached.

    A dataset that exists gets a new version.

    Args:
        folder: what `flowerlib weights --to` fills; what is there already is verified and kept.
        user: the owner on Kaggle; the one who is logged in unless given.
        poll: seconds between two looks at the dataset.

    Returns:
        The dataset, `owner/flowerlib-weights`.

    Raises:
        FlowersError: weights cannot be had, or there are no credentials.
        RuntimeError: Kaggle refused it, or a file did not get there.
    """
    service = Service()
    ref = f"{user or service.user}/{WEIGHTS_SLUG}"
    files = weights.fetch_all([row.weights for row in backbones.BACKBONES.values()], folder)
    with atomic_write(folder / "dataset-metadata.json") as temporary:
        temporary.write_text(json.dumps(_metadata(ref), indent=2) + "\n", encoding="utf-8")
    print(f"Sending {len(files)} files, {sum(file.stat().st_size for file in files) / 1e9:.2f} GB, as {ref}")
    service.send_dataset(folder, [file.name for file in files], new=service.dataset_state(ref) is None)
    _wait(service, ref, poll)
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


def _wait(service: Service, ref: str, poll: float) -> None:
    """Return when Kaggle has taken the dataset in; a cut connection is waited out."""
    shown = ""
    while shown != "ready":
        time.sleep(poll if shown else 0)
        try:
            state = service.dataset_state(ref) or "not there yet"
        except Unreachable as error:
            state = str(error)
        if state in ("failed", "deleted"):
            raise RuntimeError(f"Kaggle could not take in {ref}: it is {state}; look at kaggle.com/datasets/{ref}")
        if state != shown:
            print(f"{ref}: {state}", flush=True)
        shown = state
