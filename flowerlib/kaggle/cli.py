"""`flowerlib kaggle ...`: the series on Kaggle."""

import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from flowerlib.config import FlowersError
from flowerlib.kaggle.options import (
    DEFAULT_OUTPUT,
    Accelerator,
    Notebooks,
    Online,
    OutputFolder,
    Timeout,
    User,
    hours,
    renamed,
)

if TYPE_CHECKING:
    from flowerlib.kaggle.kernels import Kernel
    from flowerlib.kaggle.service import Service

DEFAULT_WEIGHTS = Path("build/weights")

app = typer.Typer(
    help="Run the series on Kaggle and bring the submission back.",
    epilog="Example: flowerlib kaggle run --submit",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command(epilog="Example: flowerlib kaggle build --user alice && kaggle kernels push -p build/kernels/01_eda")
def build(
    notebooks: Notebooks = None,
    user: User = None,
    out: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            metavar="FOLDER",
            help="Output folder; one subfolder per notebook. Default: build/kernels in the repository.",
        ),
    ] = None,
    to: Annotated[Path | None, renamed("--to", "--out")] = None,
    accelerator: Accelerator = None,
    online: Online = None,
) -> None:
    """Build a Kaggle kernel of each notebook.

    Each gets a folder with the notebook, flowerlib embedded, and its kernel-metadata.json.
    """
    from flowerlib.kaggle import build, client, kernels
    from flowerlib.series.notebooks import require_clone

    require_clone(kernels.ROOT / "notebooks")
    out, user = out or to, user or client.logged_in_user() or kernels.owner()
    folders = build.build(notebooks or (), user=user, out=out, accelerator=accelerator, online=online)
    for folder, built in folders.items():
        print(f"{os.path.relpath(folder)}: {built.ref}, content {built.content}")
    if out is None:
        print(f"{kernels.METADATA}: now owned by {user}; `kaggle kernels push -p .` pushes the kernel it describes")


@app.command(epilog="Example: flowerlib kaggle lint")
@app.command("check", hidden=True)
def lint(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FOLDER", help="Folders with a kernel-metadata.json; default: all kernels that are built."
        ),
    ] = None,
) -> None:
    """Lint kernels before they are pushed."""
    from flowerlib.kaggle import build, check, kernels
    from flowerlib.series import notebooks, pairs

    if not folders:
        notebooks.require_clone(kernels.ROOT / "notebooks")
        folders = [kernels.ROOT, *sorted((kernels.ROOT / build.KERNELS_DIR).glob("*/"))]
        if len(folders) == 1:
            raise FlowersError(f"nothing is built in {build.KERNELS_DIR}; run `flowerlib kaggle build`")
        pairs.require_current(sorted((kernels.ROOT / "notebooks").glob("*.ipynb")))
    check.require(folders)
    print("No problems found in:", *(os.path.relpath(folder) for folder in folders), sep="\n")


@app.command(epilog="Example: flowerlib kaggle push 01_eda 02_augmentation")
def push(
    notebooks: Annotated[
        list[str], typer.Argument(metavar="NOTEBOOK", help="Such as 14_efficientnetv2xl.", show_default=False)
    ],
    user: User = None,
    accelerator: Accelerator = None,
    online: Online = None,
    timeout: Timeout = "9h",
) -> None:
    """Build, check and push kernels, without waiting for them."""
    from flowerlib.kaggle import build, check
    from flowerlib.kaggle.errors import QueueFull, Unreachable
    from flowerlib.kaggle.service import Service

    service = Service()
    kernels = build.make_all(notebooks, user=user or service.user, accelerator=accelerator, online=online)
    check.require_built(kernels)
    service.require_datasets(built.metadata for built in kernels)
    for built in kernels:
        name = built.kernel.notebook
        try:
            version = service.push(built, int(3600 * hours(timeout)))
        except QueueFull as error:
            raise RuntimeError(
                f"{name} was not pushed: {error} Wait, or let `flowerlib kaggle run {name}` wait"
            ) from None
        except Unreachable as error:
            raise RuntimeError(f"{error}; `flowerlib kaggle status {name}` shows whether {name} arrived") from None
        print(f"{name}: version {version}, https://www.kaggle.com/code/{built.ref}")


@app.command(epilog="Example: flowerlib kaggle run --submit")
def run(
    notebooks: Notebooks = None,
    user: User = None,
    out: OutputFolder = DEFAULT_OUTPUT,
    accelerator: Accelerator = None,
    online: Online = None,
    timeout: Timeout = "9h",
    submit: Annotated[
        bool, typer.Option("--submit", help="Submit the ensemble's predictions to the competition.")
    ] = False,
    models: Annotated[
        bool, typer.Option("--models", help="Download all that kernels leave; only what the recap needs unless given.")
    ] = False,
    ignore_quota: Annotated[
        bool, typer.Option("--ignore-quota", help="Push even if the week's hours seem too few; they are estimated.")
    ] = False,
    delete_overdue: Annotated[
        bool,
        typer.Option(
            "--delete-overdue",
            help="Delete kernels that run beyond their time limit, with all their versions; asks before each.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Build and check, print what would be pushed and its hours, push nothing.")
    ] = False,
    poll: Annotated[
        float, typer.Option(min=0.01, max=3600, metavar="SECONDS", help="Polling interval in seconds.")
    ] = 30.0,
) -> None:
    """Run notebooks on Kaggle and download their outputs.

    The kernels whose outputs they read are run first. An interrupted call resumes when it is called again.
    """
    from flowerlib.kaggle import run

    if dry_run:
        return run.dry_run(notebooks or (), user=user, accelerator=accelerator, online=online)
    try:
        run.run(
            notebooks or (),
            user=user,
            out=out,
            accelerator=accelerator,
            online=online,
            hours=hours(timeout),
            submit=submit,
            models=models,
            ignore_quota=ignore_quota,
            confirm_deletion=_confirm if delete_overdue else None,
            poll=poll,
        )
    except KeyboardInterrupt:
        print("\nStopped waiting. Kernels that were pushed go on at Kaggle; the same command resumes.")
        raise typer.Exit(130) from None


def _confirm(question: str) -> bool:
    """Ask a question; where nobody can answer, the answer is no."""
    try:
        return typer.confirm(question)
    except typer.Abort:
        return False


@app.command(epilog="Example: flowerlib kaggle preflight 13_efficientnetb7 --accelerator NvidiaTeslaT4")
def preflight(
    notebooks: Notebooks = None,
    accelerator: Accelerator = None,
    online: Online = None,
    compiles: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="Compile each step with the TPU's own compiler, which needs no TPU but takes up to an hour a network; "
            "pip install 'jax[tpu]' first.",
        ),
    ] = False,
) -> None:
    """Trace notebooks for an accelerator that is not here.

    Finds what would fail or be slow there, and the memory of a chip; nothing is computed or sent.

    Exit code 1 if there are problems. The data are FLOWERS_DATA, or the built-in sample.
    """
    from flowerlib.kaggle.preflight import preflight

    if problems := preflight(notebooks or (), accelerator=accelerator, online=online, compiles=compiles):
        raise FlowersError("\n".join(problems))
    print("No problems found.")


@app.command(epilog="Example: flowerlib kaggle status")
def status(notebooks: Notebooks = None, user: User = None) -> None:
    """Show the state of the newest run of each kernel."""

    def show(service: "Service", kernel: "Kernel", ref: str) -> None:
        remote = service.newest_version(ref)
        if remote is None:
            print(f"{kernel.notebook:<20} not on Kaggle")
            return
        state, message = service.status(ref, remote.version)
        print(f"{kernel.notebook:<20} version {remote.version}, content {remote.content}: {state} {message}".rstrip())

    _for_each_kernel(notebooks, user, show)


@app.command(epilog="Example: flowerlib kaggle logs 14_efficientnetv2xl")
def logs(
    notebook: Annotated[str, typer.Argument(metavar="NOTEBOOK", help="Such as 14_efficientnetv2xl.")],
    user: User = None,
) -> None:
    """Print what the newest run of a kernel printed."""

    def show(service: "Service", kernel: "Kernel", ref: str) -> None:
        if (remote := service.newest_version(ref)) is None:
            raise RuntimeError(f"{ref} is not on Kaggle; `flowerlib kaggle push {kernel.notebook}` pushes it")
        print(service.log(ref, remote.version))

    _for_each_kernel([notebook], user, show)


@app.command(epilog="Example: flowerlib kaggle quota")
def quota() -> None:
    """Show this week's hours of accelerator time."""
    from flowerlib.kaggle.service import Service

    service = Service()
    for kind in ("tpu", "gpu"):
        if left := service.quota(kind):
            until = f", until {left.refresh:%A %d %B, %H:%M} UTC" if left.refresh else ""
            reserved = f", {left.reserved:.1f} h set aside by running sessions" if left.reserved else ""
            print(f"{kind.upper()}: {left.remaining:.1f} h of {left.total:.0f} h left{reserved}{until}")
        else:
            print(f"{kind.upper()}: Kaggle does not say")


@app.command(epilog="Example: flowerlib kaggle output 14_efficientnetv2xl --out outputs/kaggle")
def output(notebooks: Notebooks = None, user: User = None, out: OutputFolder = DEFAULT_OUTPUT) -> None:
    """Download outputs of the newest runs, models too."""
    from flowerlib.kaggle.outputs import Outputs
    from flowerlib.kaggle.service import COMPLETE_STATES, FAILED_STATES

    def download(service: "Service", kernel: "Kernel", ref: str) -> None:
        if (remote := service.newest_version(ref)) is None:
            raise RuntimeError(f"{ref} is not on Kaggle; `flowerlib kaggle push {kernel.notebook}` pushes it")
        if (state := service.status(ref, remote.version)[0]) not in (*COMPLETE_STATES, *FAILED_STATES):
            raise RuntimeError(f"version {remote.version} of {ref} has not ended ({state}); nothing was downloaded")
        outputs = Outputs(out, service, models=True)
        outputs.fetch(kernel.notebook, ref, remote.version, remote.content)
        print(outputs.kernel_folder(kernel.notebook))

    _for_each_kernel(notebooks, user, download)


@app.command(epilog='Example: flowerlib kaggle submit --message "five networks, fitted weights"')
def submit(
    notebook: Annotated[
        str, typer.Argument(metavar="NOTEBOOK", help="The notebook whose submission.csv is submitted.")
    ] = "20_ensemble",
    user: User = None,
    message: Annotated[str, typer.Option(metavar="TEXT", help="Description of the submission.")] = "flowerlib",
) -> None:
    """Submit the predictions of the newest run of a kernel."""
    from flowerlib.kaggle.errors import SUBMISSION_HINT, Unreachable
    from flowerlib.kaggle.service import COMPLETE_STATES

    def send(service: "Service", kernel: "Kernel", ref: str) -> None:
        remote = service.newest_version(ref)
        state = remote and service.status(ref, remote.version)[0]
        if remote is None or state not in COMPLETE_STATES:
            raise RuntimeError(f"{ref} has no complete run to submit: {state or 'not on Kaggle'}")
        with TemporaryDirectory() as folder:
            service.output(ref, remote.version, Path(folder), r"^submission\.csv$")
            if not Path(folder, "submission.csv").exists():
                raise RuntimeError(f"version {remote.version} of {ref} left no submission.csv")
        try:
            print(service.submit(ref, remote.version, message))
        except Unreachable as error:
            raise RuntimeError(f"the submission may or may not have arrived ({error}): {SUBMISSION_HINT}") from None

    _for_each_kernel([notebook], user, send)


@app.command("weights-dataset", epilog="Example: flowerlib kaggle weights-dataset && flowerlib kaggle run --offline")
def weights_dataset(
    out: Annotated[
        Path, typer.Option(file_okay=False, metavar="FOLDER", help="Folder for the weights, which is uploaded.")
    ] = DEFAULT_WEIGHTS,
    to: Annotated[Path | None, renamed("--to", "--out")] = None,
    user: User = None,
    poll: Annotated[
        float, typer.Option(min=0.01, max=3600, metavar="SECONDS", help="Polling interval in seconds.")
    ] = 10.0,
) -> None:
    """Upload the pretrained weights as a private dataset.

    Kernels without internet take their weights from it.
    """
    from flowerlib.kaggle import dataset

    print(dataset.upload(to or out, user=user, poll=poll), "can be attached now.")


def _for_each_kernel(notebooks: list[str] | None, user: str | None, action: Callable) -> None:
    """Call `action(service, kernel, ref)` for the kernel of each notebook."""
    from flowerlib.kaggle import kernels
    from flowerlib.kaggle.service import Service

    service = Service()
    for kernel in kernels.select(notebooks or ()):
        action(service, kernel, f"{user or service.user}/{kernel.slug}")
