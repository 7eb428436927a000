"""The page of the web service: drop or take a photograph; see its name, where the network looked, what it resembles."""

import asyncio
import base64
import html
import io
import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from fastapi import FastAPI
from PIL import Image

from flowerlib.config import FlowersError
from flowerlib.photos.classification import Classifier, Look

if TYPE_CHECKING:
    from flowerlib.serving.app import Batches, Limits

# Gradio writes what is uploaded to a file, equal ones to the same. It gets a folder of our own; each file is removed
# seconds after it is read, and the folder when the service ends. It reads both variables when it is imported.
UPLOADS = tempfile.TemporaryDirectory(prefix="flowerlib-")
os.environ |= {"GRADIO_TEMP_DIR": UPLOADS.name, "GRADIO_ANALYTICS_ENABLED": "False"}
import gradio as gr  # noqa: E402

TOP = 5  # names
SIMILAR = 6  # training pictures
KEPT = 5.0  # seconds that a file outlives its looking: somebody else may just have sent the same
DARK = 0.2  # share of its light that a place keeps which does not speak for the name
PATHS = {"/", "/predict", "/healthz", "/model", "/metrics", "/docs", "/docs/oauth2-redirect", "/openapi.json"}
PATHS |= {
    "/config",
    "/theme.css",
    "/favicon.ico",
    "/manifest.json",
    "/gradio_api/upload",
    "/gradio_api/upload_progress",
}
PATHS |= {f"/gradio_api/{name}" for name in ("queue/join", "queue/data", "info", "app_id", "startup-events", "cancel")}
FOLDERS = ("/static-offline-docs/", "/assets/", "/static/", "/svelte/")
STYLE = """
.pictures { display: flex; flex-wrap: wrap; gap: 12px; margin: 0; padding: 0; list-style: none; }
.pictures figure { width: 112px; margin: 0; }
.pictures img { width: 112px; height: 112px; object-fit: cover; border-radius: 8px; }
.pictures figcaption, .looked p { font-size: 0.9rem; line-height: 1.3; overflow-wrap: anywhere; }
.looked img { width: 100%; max-width: 256px; border-radius: 8px; }
"""


def mount(app: FastAPI, classifier: Classifier, batches: "Batches", limits: "Limits") -> FastAPI:
    """Add the page at `/` to a service whose own paths come first."""
    record = classifier.record
    warning = "**Trained for a trial only: its answers mean nothing.** " if record["smoke_test"] else ""

    async def name(uploaded: dict | None) -> tuple[dict | None, dict | None, str, str]:
        if uploaded is None:
            return None, None, "", ""
        try:
            with batches.room(1):
                async with asyncio.timeout(limits.seconds):
                    image = await _decoded(uploaded["path"], batches)
                    blocks.upload_file_set.discard(uploaded["path"])  # Gradio would remember it for ever
                    (said,) = await batches.probabilities([image])
                    look = await batches.look(image)
                    return await batches.beside(lambda: _shown(classifier, image, said, look))
        except TimeoutError:
            raise gr.Error("It took too long; try again later.", duration=None, print_exception=False) from None
        except FlowersError as error:
            raise gr.Error(str(error), duration=None, print_exception=False) from None

    with gr.Blocks(title="flowerlib", analytics_enabled=False) as blocks:
        gr.Markdown(
            f"# What does it show?\n{warning}Drop a photograph, take one, or paste it. `{record['name']}` "
            f"({record['backbone']}) knows {len(classifier.classes)} classes; macro F1 {record['val_macro_f1']:.3f} on "
            "images it was not trained on. It names one of them whatever you show. Your picture is deleted "
            "seconds after it has been looked at."
        )
        with gr.Row():
            with gr.Column():
                picture = gr.Image(
                    label="Photograph",
                    sources=["upload", "webcam", "clipboard"],
                    webcam_options=gr.WebcamOptions(mirror=False, constraints={"video": {"facingMode": "environment"}}),
                    buttons=[],
                    height=320,
                )
            with gr.Column():
                label = gr.Label(label="Likeliest", num_top_classes=TOP, show_heading=True)
                looked = gr.HTML()
        similar = gr.HTML()
        picture.input(
            name,
            picture,
            [picture, label, looked, similar],
            preprocess=False,  # the file as it was sent
            postprocess=False,
            show_progress="minimal",
            show_progress_on=[label],
            concurrency_limit=limits.queue,
            api_visibility="private",
        )
    blocks.queue(max_size=limits.queue)
    picture.async_move_resource_to_block_cache = _only_uploaded
    blocks.state_session_capacity = 16  # visitors whose last answer Gradio keeps in memory; nothing asks for it
    blocks.has_launched = True  # or Gradio 6.31 lets a browser name any file of this machine as its upload
    return gr.mount_gradio_app(
        app, blocks, "/", footer_links=[], run_history=False, css=STYLE, ssr_mode=False, max_file_size=limits.bytes
    )


def needs(path: str) -> bool:
    """Whether a path is the service's own or one that the page needs: Gradio has many more, such as for fetching."""
    return path in PATHS or path.startswith(FOLDERS)


async def sweep(seconds: float) -> None:
    """Remove, until cancelled, what was uploaded so long ago and never looked at, such as what was broken off."""
    while True:
        await asyncio.sleep(seconds / 2)
        for path in sorted(Path(UPLOADS.name).rglob("*"), reverse=True):  # what is in a folder before the folder
            with suppress(OSError):  # gone already, or not empty
                if time.time() - path.stat().st_mtime > seconds:
                    path.rmdir() if path.is_dir() else path.unlink()


async def _only_uploaded(place: str) -> str:
    """Stand where Gradio would fetch a picture from whatever address the browser sent."""
    if not Path(place).resolve().is_relative_to(Path(UPLOADS.name).resolve()):
        raise FlowersError("only what was uploaded is looked at")
    return str(place)


async def _decoded(uploaded: str, batches: "Batches") -> np.ndarray:
    """Return the pixels of a file that was uploaded, and remove it soon."""
    path = Path(uploaded).resolve()
    if not path.is_relative_to(Path(UPLOADS.name).resolve()) or not path.is_file():
        raise FlowersError("This file was not uploaded, or already looked at; send it again.")
    sent = path.stat().st_mtime_ns
    try:
        return await batches.decode(path)
    except FlowersError as error:
        raise FlowersError(f"This file {error}.") from None
    finally:
        asyncio.get_running_loop().call_later(KEPT, _remove, path, sent)


def _remove(path: Path, sent: int) -> None:
    """Remove a file, unless it has been sent again, and is removed later."""
    with suppress(FileNotFoundError):
        if path.stat().st_mtime_ns == sent:
            path.unlink()


def _shown(classifier: Classifier, image: np.ndarray, said: np.ndarray, look: Look) -> tuple[dict, dict, str, str]:
    """The image as it was cut, its names, where the network looked, and what it resembles."""
    shown = {"path": "", "url": _data_url(_png(image), "image/png")}  # no file of the server: those are gone
    guesses = classifier.top(said, TOP)
    bars = [{"label": name, "confidence": value} for name, value in guesses]
    looked = _looked(image, look.evidence, guesses[0][0], classifier.classes)
    return shown, {"label": guesses[0][0], "confidences": bars}, looked, _similar(classifier, look.features)


def _looked(image: np.ndarray, evidence: np.ndarray, name: str, classes: tuple[str, ...]) -> str:
    """The image as the network saw it, dark where nothing speaks for the name."""
    heights = np.maximum(evidence[..., classes.index(name)], 0)
    heights = Image.fromarray(heights / max(heights.max(), 1e-6))
    light = np.clip(np.asarray(heights.resize(image.shape[1::-1], Image.Resampling.BICUBIC)), 0, 1)
    lit = image * (DARK + (1 - DARK) * light[..., np.newaxis])
    text = f"Where the network looked: what is bright speaks for {html.escape(name)}, what is dark does not."
    return f'<div class="looked">{_img(_png(lit.round().astype(np.uint8)), "image/png", text)}<p>{text}</p></div>'


def _similar(classifier: Classifier, features: np.ndarray) -> str:
    """The training pictures that the network sees most alike."""
    if not classifier.gallery:
        return ""
    figures = []
    for place, cosine in classifier.gallery.nearest(features, SIMILAR):
        name = html.escape(classifier.classes[classifier.gallery.labels[place]])
        thumbnail = _img(classifier.gallery.thumbnails[place], "image/jpeg", name)
        figures.append(f"<li><figure>{thumbnail}<figcaption>{name}<br>{cosine:.2f}</figcaption></figure></li>")
    return f'<h2>Training pictures it resembles</h2><ul class="pictures">{"".join(figures)}</ul>'


def _png(pixels: np.ndarray) -> bytes:
    Image.fromarray(pixels).save(encoded := io.BytesIO(), "PNG")
    return encoded.getvalue()


def _img(content: bytes, kind: str, text: str) -> str:
    return f'<img alt="{text}" src="{_data_url(content, kind)}">'


def _data_url(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
