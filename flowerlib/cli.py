"""The command line: `flowerlib` or `python -m flowerlib`."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from flowerlib.config import FlowersError, competition_mounts, sample_dir
from flowerlib.kaggle import cli as kaggle
from flowerlib.kaggle.options import renamed

app = typer.Typer(
    help="Classify flowers: run the notebook series, here or on Kaggle; make a sample, check data, fetch weights.",
    epilog="Example: flowerlib run 00_quickstart --sample",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(kaggle.app, name="kaggle")


@app.command(epilog="Example: flowerlib run 00_quickstart --data ~/flowers --out outputs")
def run(
    notebooks: Annotated[list[str] | None, typer.Argument(help="Such as 00_quickstart; all unless given.")] = None,
    data: Annotated[
        str | None,
        typer.Option(help="The dataset's folder or address, instead of FLOWERS_DATA, else FLOWERS_KAGGLE/input."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Where everything is left.")] = Path("outputs"),
    full: Annotated[
        bool, typer.Option("--full", help="Train in earnest on a CPU too, as FLOWERS_PROFILE=full.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Let a run replace a longer one of the same name, as FLOWERS_FORCE=1.")
    ] = False,
    sample: Annotated[
        bool,
        typer.Option(
            "--sample",
            help="Draw the sample where --data, FLOWERS_DATA, FLOWERS_KAGGLE and Kaggle itself name no data.",
        ),
    ] = False,
) -> None:
    """Run notebooks and leave what they make, with a page of it all."""
    from flowerlib import series

    if full:
        os.environ["FLOWERS_PROFILE"] = "full"
    if force:
        os.environ["FLOWERS_FORCE"] = "1"
    named = data or os.environ.get("FLOWERS_DATA") or os.environ.get("FLOWERS_KAGGLE")
    there = named or any(mount.exists() for mount in competition_mounts())
    # In a process of its own: importing TensorFlow changes the environment that the notebooks would inherit.
    draw = [sys.executable, "-m", "flowerlib", "sample", sample_dir()]
    if sample and not there and subprocess.run(draw).returncode:
        raise typer.Exit(1)
    series.run(notebooks or (), data=data, out=out)


@app.command("sample", epilog="Example: flowerlib sample my-flowers --images 500 --seed 1")
def draw_sample(
    out: Annotated[Path, typer.Argument(help="Output folder.", show_default=False)],
    size: Annotated[int, typer.Option(help="Side of the images in pixels: 192, 224, 331 or 512.")] = 192,
    images: Annotated[int, typer.Option(help="Number of images in train, val and test together.")] = 1500,
    seed: Annotated[int, typer.Option(help="Random seed; the same seed gives the same bytes.")] = 0,
) -> None:
    """Draw a synthetic dataset, to try everything without the real one."""
    from flowerlib import sample

    sample.write(out, image_size=size, num_images=images, seed=seed)


@app.command(epilog="Example: flowerlib folder photographs my-flowers && flowerlib run 00_quickstart --data my-flowers")
def folder(
    source: Annotated[Path, typer.Argument(help="A folder with one folder per class, or a CSV file of path,label.")],
    out: Annotated[Path, typer.Argument(help="Output folder: a dataset in the competition's layout.")],
    size: Annotated[int, typer.Option(help="Side of the images in pixels.")] = 192,
    val: Annotated[float, typer.Option(help="Share of each class for the validation split.")] = 0.15,
    test: Annotated[float, typer.Option(help="Share of each class for the test split.")] = 0.15,
    fit: Annotated[
        Literal["crop", "pad"], typer.Option(help="crop keeps the middle square of a photograph; pad keeps all of it.")
    ] = "crop",
    seed: Annotated[int, typer.Option(help="Random seed of the splits and the order of the images.")] = 0,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Leave out files that cannot be read, instead of stopping.")
    ] = False,
) -> None:
    """Convert your own photographs into a dataset.

    Squares of one size in stratified splits; near-duplicates stay in one split.
    OUT/files.csv lists every file with its split, OUT/preview.png shows some.
    """
    from flowerlib.photos import folder

    options = {"image_size": size, "val": val, "test": test, "fit": fit, "seed": seed, "skip_broken": skip_broken}
    print(folder.convert(source, out, **options))


@app.command(epilog="Example: flowerlib predict holiday/*.jpg --model outputs/runs/00_quickstart --top 3")
def predict(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE", help="Images, or folders with images.")],
    model: Annotated[Path, typer.Option(help="A run folder, such as outputs/runs/00_quickstart.", show_default=False)],
    top: Annotated[int, typer.Option(min=1, help="Number of classes to print for each image.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV: file,rank,class,probability.")] = False,
) -> None:
    """Classify photographs with a trained model.

    Files that cannot be read are named on stderr, and make the exit code 1.
    """
    from flowerlib.photos import classification

    if as_json and as_csv:
        raise FlowersError("--json and --csv exclude each other")
    classification.report(classification.load(model), images, top, "json" if as_json else "csv" if as_csv else "text")


@app.command(epilog="Example: flowerlib export outputs/runs/00_quickstart --format onnx --images holiday/")
def export(
    run: Annotated[Path, typer.Argument(help="A run folder, such as outputs/runs/00_quickstart.", show_default=False)],
    export_format: Annotated[
        Literal["onnx", "litert", "savedmodel"] | None,
        typer.Option("--format", help="Format of the exported model.", show_default=False),
    ] = None,
    to: Annotated[str | None, renamed("--to", "--format")] = None,
    images: Annotated[
        list[Path] | None, typer.Option(help="Images or folders to compare on; default: its training images.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Output folder; default: RUN/export/FORMAT.")] = None,
) -> None:
    """Export a model to another format.

    Its probabilities are verified against the original; size and speed are compared.
    """
    os.environ["KERAS_BACKEND"] = "tensorflow"  # the only backend that exports to all formats
    from flowerlib.photos import export as exporting

    if (chosen := export_format or to) is None:
        raise FlowersError("`--format` is missing; it must be one of onnx, litert, savedmodel")
    print(exporting.export(run, chosen, images or (), out))


@app.command(epilog="Example: flowerlib serve --model outputs/runs/00_quickstart --port 8000")
def serve(
    model: Annotated[
        Path, typer.Option(help="outputs/runs/NAME, as a notebook left it, or its model/.", show_default=False)
    ],
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    host: Annotated[str, typer.Option(help="0.0.0.0 lets other machines in.")] = "127.0.0.1",
    max_bytes: Annotated[int, typer.Option(min=1, help="Of a request.")] = 32_000_000,
    max_pixels: Annotated[int, typer.Option(min=1, help="Of an image; of all decoded at once.")] = 50_000_000,
    max_files: Annotated[int, typer.Option(min=1, help="Of a request.")] = 32,
    seconds: Annotated[float, typer.Option(min=0.1, help="For a request to arrive, and for its answer.")] = 30,
    queue: Annotated[int, typer.Option(min=1, help="Images under way at once; others get 503.")] = 256,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="A name to answer to, such as of a web server in front; repeatable."),
    ] = None,
) -> None:
    """Open a page and an API that name the flowers in photographs.

    What is sent is not kept.
    """
    try:
        from flowerlib.serving import app as service
    except ImportError as error:
        raise FlowersError(f"{error.name} is missing: pip install '.[serve]' in flowerlib's folder") from None
    limits = service.Limits(max_bytes, max_pixels, max_files, seconds, queue)
    service.serve(model, host, port, limits, allow_host or ())


@app.command(epilog="Example: flowerlib check --data ~/flowers")
def check(
    data: Annotated[str | None, typer.Option(help="The dataset's folder or address, instead of FLOWERS_DATA.")] = None,
    size: Annotated[
        int | None, typer.Option(help="Side of the images in pixels; the smallest present unless given.")
    ] = None,
) -> None:
    """Read every record once and name the first that is damaged."""
    from flowerlib import data as flowers_data

    flowers = flowers_data.find(size, data)
    flowers_data.check(flowers)
    print(f"{flowers}: every record is sound.")


@app.command(epilog="Example: flowerlib weights --out weights && FLOWERS_WEIGHTS=weights flowerlib run")
def weights(
    out: Annotated[Path | None, typer.Option(help="Output folder.", show_default=False)] = None,
    to: Annotated[Path | None, renamed("--to", "--out")] = None,
) -> None:
    """Download the pretrained weights of all networks.

    They are verified, and serve a machine without network.
    """
    from flowerlib.networks import backbones, weights

    if (folder := out or to) is None:
        raise FlowersError("`--out` is missing: name the folder for the weights")
    for path in weights.fetch_all([row.weights for row in backbones.BACKBONES.values()], folder):
        print(path)


def main() -> None:
    """Run a command; an error that the user can put right is one line, and exit code 1."""
    try:
        app()
    except (FlowersError, RuntimeError) as error:
        sys.exit(f"error: {error}")
