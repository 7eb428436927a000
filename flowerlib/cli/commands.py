"""The commands. Those of `flowerlib kaggle` are in `kaggle.cli`."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from flowerlib import __version__
from flowerlib.cli.options import Backend, ClassFrom, DeviceKind, Fit, Format, Profile, Split, SplitRule, seconds
from flowerlib.config import FlowersError, competition_dir, competition_mounts, sample_dir
from flowerlib.kaggle import cli as kaggle
from flowerlib.kaggle.options import renamed

app = typer.Typer(
    help="Classify flowers: run the notebooks here or on Kaggle, use your own photographs, serve and export a model.",
    epilog="Example: flowerlib run quickstart --sample",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(kaggle.app, name="kaggle")
ModelOption = Annotated[
    Path, typer.Option(help="A run, such as outputs/runs/00_quickstart, or its folder model.", show_default=False)
]
DataOption = Annotated[
    str | None, typer.Option(metavar="PLACE", help="The dataset's folder or address, instead of FLOWERS_DATA.")
]
ClassFromOption = Annotated[
    ClassFrom | None, typer.Option(help="Of folders within folders, which is the class. Default: recognized.")
]
ColumnsOption = Annotated[
    str | None, typer.Option(metavar="PATH,LABEL[,SPLIT]", help="Columns of a CSV by name, or by number from 1.")
]
RootOption = Annotated[Path | None, typer.Option(help="Folder of the paths in a CSV. Default: that of the CSV.")]


def _split_names(columns: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in columns.split(",")) if columns else ()


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"flowerlib {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """What stands before the command."""


@app.command(epilog="Example: flowerlib run 00 -p SIZES=192,256 --name two-sizes --data ~/flowers")
def run(
    notebooks: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NOTEBOOK...", help="Name, number or word: 00_quickstart, 00, quickstart. Default: all."
        ),
    ] = None,
    data: DataOption = None,
    out: Annotated[Path, typer.Option(help="Output folder.")] = Path("outputs"),
    parameter: Annotated[
        list[str] | None,
        typer.Option("--parameter", "-p", metavar="NAME=VALUE", help="A parameter of the notebook; repeatable."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the run, so that variants live side by side.")] = None,
    profile: Annotated[
        Profile | None, typer.Option(help="Train in full, or smoke-test: a few tiny steps. Default: by the device.")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Same as --profile full.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Let a run replace a longer one of the same name (FLOWERS_FORCE=1).")
    ] = False,
    sample: Annotated[
        bool, typer.Option("--sample", help="Use the built-in synthetic sample where no data are named or mounted.")
    ] = False,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Notebooks side by side. Default: as cores and memory allow.")
    ] = None,
    device: Annotated[DeviceKind | None, typer.Option(help="Stop unless this kind of device is there.")] = None,
    backend: Annotated[Backend | None, typer.Option(help="Keras backend. Default: by the device.")] = None,
) -> None:
    """Run notebooks, and leave what they make in one folder.

    Without a TPU or GPU, the large networks are smoke-tested: the real network, a few steps on tiny images.
    """
    from flowerlib.series import execution

    chosen = {"FLOWERS_PROFILE": profile or ("full" if full else None), "FLOWERS_FORCE": "1" if force else None}
    chosen |= {"FLOWERS_EXPECT": device, "KERAS_BACKEND": backend}
    os.environ |= {variable: str(value) for variable, value in chosen.items() if value}
    named = data or os.environ.get("FLOWERS_DATA") or os.environ.get("FLOWERS_KAGGLE")
    fetched = any(competition_dir().glob("tfrecords-jpeg-*"))
    there = named or fetched or any(mount.exists() for mount in competition_mounts())

    def draw() -> None:
        # In a process of its own: importing TensorFlow changes the environment that the notebooks would inherit.
        command = [sys.executable, "-m", "flowerlib", "sample", str(sample_dir())]
        if sample and not there and subprocess.run(command).returncode:
            raise typer.Exit(1)

    execution.run(notebooks or (), data=data, out=out, parameters=parameter or (), name=name, jobs=jobs, prepare=draw)


@app.command("list", epilog="Example: flowerlib list")
def show_list(
    out: Annotated[Path, typer.Option(help="Output folder of earlier runs.")] = Path("outputs"),
) -> None:
    """List notebooks, networks and runs.

    Notebooks with device and time, networks with size and whether their weights are on this machine.
    """
    from flowerlib.cli import listing

    listing.show(out)


@app.command(epilog="Example: flowerlib compare outputs/runs/00_quickstart outputs/runs/two-sizes")
def compare(
    first: Annotated[Path, typer.Argument(metavar="RUN", help="A run, such as outputs/runs/00_quickstart.")],
    second: Annotated[Path, typer.Argument(metavar="RUN", help="Another run on the same data.")],
) -> None:
    """Compare two runs on val, with a 95 % interval of the difference."""
    from flowerlib import evaluation, predictions

    print(evaluation.compare(predictions.load(first), predictions.load(second)))


@app.command(epilog="Example: flowerlib doctor")
def doctor() -> None:
    """Show device, versions, data, weights and credentials.

    To paste into an issue; nothing of it is secret.
    """
    from flowerlib.cli import doctor as examination

    print(examination.report())


@app.command(epilog="Example: flowerlib cache --clear features")
def cache(
    clear: Annotated[
        str | None,
        typer.Option(metavar="KIND", help="Remove one kind: features, records, xla, competition, sample; or all."),
    ] = None,
) -> None:
    """Show what is kept on this machine, or remove it."""
    from flowerlib.cli import cache as kept

    print(kept.show() if clear is None else kept.clear(None if clear == "all" else clear))


@app.command("data", epilog="Example: flowerlib data --size 224")
def fetch_data(
    to: Annotated[
        Path | None,
        typer.Option(file_okay=False, metavar="DIR", help="Folder to fill. Default: one that every command finds."),
    ] = None,
    size: Annotated[int, typer.Option(help="Side of the images in pixels: 192, 224, 331 or 512.")] = 192,
) -> None:
    """Fetch the competition's data from Kaggle, and check them.

    Only the size that is asked for. Log in with `kaggle auth login`, and accept the competition's rules on its page,
    before. A call that was stopped goes on where it was.
    """
    from flowerlib.kaggle import competition

    def verify(root: Path) -> None:
        from flowerlib import data as datasets

        datasets.check(datasets.find(size, str(root)))

    folder = to or competition_dir()
    fetched = competition.fetch(size, folder, verify)
    from flowerlib import data as datasets

    print(f"{datasets.find(size, str(folder))}: {'every record is sound' if fetched else 'there already'}.")
    if to:
        print(f"Name it with --data {to} or FLOWERS_DATA={to}.")


@app.command("sample", epilog="Example: flowerlib sample my-flowers --images 500 --seed 1")
def draw_sample(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to make.", show_default=False)],
    size: Annotated[int, typer.Option(help="Side of the images in pixels: 192, 224, 331 or 512.")] = 192,
    images: Annotated[int, typer.Option(help="Number of images, over train, val and test.")] = 1500,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 0,
) -> None:
    """Draw a synthetic dataset, to try everything without data."""
    from flowerlib import sample

    sample.write(out, image_size=size, num_images=images, seed=seed)


@app.command(epilog="Example: flowerlib folder photographs my-flowers && flowerlib run 00 --data my-flowers")
def folder(
    source: Annotated[
        Path,
        typer.Argument(metavar="SOURCE", help="A folder with a folder for each class, a zip or tar of one, or a CSV."),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The dataset to write, or to update.")],
    size: Annotated[int, typer.Option(help="Side of the images in pixels.")] = 192,
    val: Annotated[float, typer.Option(help="Fraction of each class for validation.")] = 0.15,
    test: Annotated[float, typer.Option(help="Fraction of each class for the test split.")] = 0.15,
    split: Annotated[
        SplitRule, typer.Option(help="keep or redo the splits that SOURCE has, such as folders train and val.")
    ] = SplitRule.keep,
    class_from: ClassFromOption = None,
    columns: ColumnsOption = None,
    root: RootOption = None,
    merge_names: Annotated[bool, typer.Option("--merge-names", help="Make one class of Rose, rose and ROSE.")] = False,
    fit: Annotated[Fit, typer.Option(help="crop keeps the middle square of a photograph, pad all of it.")] = Fit.crop,
    seed: Annotated[int, typer.Option(help="Seed of the split and of the order.")] = 0,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Leave out pictures that cannot be read, instead of stopping.")
    ] = False,
) -> None:
    """Turn your own photographs into a dataset.

    Squares of one size, split into train, val and test, in the competition's layout. OUT/files.csv says what became of
    every file, OUT/preview.png shows some. Called again with more photographs, it updates OUT.
    """
    from flowerlib.photos import folder as photos
    from flowerlib.photos.listing import Reading

    reading = Reading(split.value, class_from.value if class_from else None, _split_names(columns), root, merge_names)
    print(
        photos.convert(
            source,
            out,
            image_size=size,
            val=val,
            test=test,
            fit=fit.value,
            seed=seed,
            skip_broken=skip_broken,
            reading=reading,
        )
    )


@app.command(epilog="Example: flowerlib predict holiday/*.jpg --model outputs/runs/00_quickstart --top 3")
def predict(
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE...", help="Images, folders with images, or - for standard input.")
    ],
    model: ModelOption,
    top: Annotated[int, typer.Option(min=1, help="Number of classes for each image.")] = 5,
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Least probability of a class to print.")] = 0.0,
    explain: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write each image with its class activation map.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV of file,rank,class,probability.")] = False,
) -> None:
    """Classify photographs.

    Those that cannot be read are named on stderr, and make the exit code 1.
    """
    from flowerlib.photos import classification

    if as_json and as_csv:
        raise FlowersError("--json and --csv exclude each other")
    form: Literal["text", "json", "csv"] = "json" if as_json else "csv" if as_csv else "text"
    classifier = classification.load(model)
    classification.report(classifier, images, top, form, threshold=threshold, explain=explain)


@app.command(epilog="Example: flowerlib evaluate my-flowers --model outputs/runs/00_quickstart --out report")
def evaluate(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="A folder with a folder for each class, a zip or tar of one, a CSV, or what folder made.",
        ),
    ],
    model: ModelOption,
    split: Annotated[
        Split | None, typer.Option(help="Which split of SOURCE. Default: test if it has labels, else val; all if none.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Output folder. Default: RUN/evaluation/SOURCE.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    class_from: ClassFromOption = None,
    columns: ColumnsOption = None,
    root: RootOption = None,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Leave out pictures that cannot be read, instead of stopping.")
    ] = False,
    skip_unknown: Annotated[
        bool,
        typer.Option("--skip-unknown", help="Leave out classes that the model does not have, instead of stopping."),
    ] = False,
) -> None:
    """Score a model on labelled photographs.

    Accuracy and macro F1 with 95 % intervals, precision, recall and F1 of each class, confusion matrix, worst mistakes:
    as a page (DIR/evaluation.html), as JSON and as CSV.
    """
    from flowerlib.photos import classification, evaluation_page, scoring
    from flowerlib.photos.listing import Reading

    names = _split_names(columns)
    reading = Reading(class_from=class_from.value if class_from else None, columns=names, root=root)
    classifier = classification.load(model)
    found = scoring.evaluate(
        classifier,
        source,
        split=split.value if split else None,
        reading=reading,
        skip_broken=skip_broken,
        skip_unknown=skip_unknown,
    )
    out = out or classification.run_folder(model) / "evaluation" / source.resolve().name
    with contextlib.redirect_stdout(sys.stderr):  # what drawing says is no part of the answer
        evaluation_page.write(found, out)
    if as_json:
        classification.print_json(evaluation_page.as_json(found))
    else:
        print(found, f"All of it on one page: {out / evaluation_page.PAGE}", sep="\n")


@app.command(epilog="Example: flowerlib export outputs/runs/00_quickstart --format onnx --images holiday/")
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run, such as outputs/runs/00_quickstart.")],
    form: Annotated[Format | None, typer.Option("--format", help="The format to write.", show_default=False)] = None,
    old_form: Annotated[Format | None, renamed("--to", "--format")] = None,
    images: Annotated[
        list[Path] | None, typer.Option(help="Images or folders to compare on. Default: its training images.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Output folder. Default: RUN/export/FORMAT.")] = None,
) -> None:
    """Write a model for other programs.

    Its probabilities are compared with the original's; its size and speed are printed.
    """
    os.environ["KERAS_BACKEND"] = "tensorflow"  # the others cannot write all formats
    from flowerlib.photos import export as exporting

    chosen = form or old_form
    if not chosen:
        raise FlowersError(f"`--format` must be one of {', '.join(Format)}")
    print(exporting.export(run, chosen.value, images or (), out))


@app.command(epilog="Example: flowerlib serve --model outputs/runs/00_quickstart --port 8000")
def serve(
    model: ModelOption,
    port: Annotated[int, typer.Option(min=1, max=65535, help="TCP port.")] = 8000,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 admits other machines.")] = "127.0.0.1",
    max_bytes: Annotated[int, typer.Option(min=1, help="Maximum size of a request in bytes.")] = 32_000_000,
    max_pixels: Annotated[
        int, typer.Option(min=1, help="Maximum pixels of an image, and of all images decoded at once.")
    ] = 50_000_000,
    max_files: Annotated[int, typer.Option(min=1, help="Maximum number of images in a request.")] = 32,
    timeout: Annotated[
        float, typer.Option(metavar="TIME", parser=seconds, help="For a request to arrive, and for its answer.")
    ] = "30s",  # type: ignore[assignment]  # which is parsed too
    old_timeout: Annotated[float | None, renamed("--seconds", "--timeout")] = None,
    queue: Annotated[int, typer.Option(min=1, help="Images in flight at once; beyond that, requests get 503.")] = 256,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A host name to accept, such as that of a reverse proxy; repeatable.")
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(help="A site whose pages may use the API (CORS), such as https://shop.example; repeatable."),
    ] = None,
    root_path: Annotated[
        str, typer.Option(metavar="PATH", help="Where a reverse proxy shows the service, such as /flowers.")
    ] = "",
) -> None:
    """Serve a web page and an API that classify photographs.

    What is sent is not kept.
    """
    try:
        from flowerlib.serving import app as service
    except ModuleNotFoundError as error:
        raise FlowersError(f"{error.name} is missing: pip install '.[serve]' in flowerlib's folder") from None
    limits = service.Limits(max_bytes, max_pixels, max_files, old_timeout or timeout, queue)
    service.serve(model, host, port, limits, allow_host or (), allow_origin or (), root_path)


@app.command(epilog="Example: flowerlib check --data ~/flowers")
def check(
    data: DataOption = None,
    size: Annotated[int | None, typer.Option(help="Side of the images in pixels. Default: the smallest.")] = None,
) -> None:
    """Validate a dataset; name the first damaged record."""
    from flowerlib import data as datasets

    flowers = datasets.find(size, data)
    datasets.check(flowers)
    print(f"{flowers}: every record is sound.")


@app.command(epilog="Example: flowerlib weights --out weights && FLOWERS_WEIGHTS=weights flowerlib run")
def weights(
    out: Annotated[Path | None, typer.Option(help="The folder to fill.", show_default=False)] = None,
    old_out: Annotated[Path | None, renamed("--to", "--out")] = None,
) -> None:
    """Download the pretrained weights of every network into a folder.

    They are verified, and serve a machine without network.
    """
    from flowerlib.networks import backbones
    from flowerlib.networks import weights as files

    chosen = out or old_out
    if not chosen:
        raise FlowersError("`--out` must be the folder to fill")
    for path in files.fetch_all([row.weights for row in backbones.BACKBONES.values()], chosen):
        print(path)
