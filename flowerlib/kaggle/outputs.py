"""The outputs and logs of kernels, downloaded into one folder."""

import json
import re
from pathlib import Path

from flowerlib.config import WITHOUT_ACCELERATOR, FlowersError, atomic_write
from flowerlib.kaggle.build import BuiltKernel
from flowerlib.kaggle.clock import Clock
from flowerlib.kaggle.service import Service

RECAP_FILES = ("run.json", "predictions.npz", "curves.png")  # of each run
# What the recap and the submission need; the rest, models above all, can have hundreds of megabytes.
NEEDED = rf"^(submission\.csv|runs/[^/]+/({'|'.join(map(re.escape, RECAP_FILES))}))$"
# What a log says of a session without its accelerator: an error of `kernel.start`, or of JAX, which also warns so.
NO_ACCELERATOR = re.compile(rf"Error\S*: ({re.escape(WITHOUT_ACCELERATOR)}:|.*Unable to initialize backend)")


class Outputs:
    """A folder with `input/<notebook>/`, the output of each kernel, and `logs/`, of those that failed.

    Args:
        folder: where they go.
        service: Kaggle.
        models: download all that a kernel left, not only what the recap and the submission need.
    """

    def __init__(self, folder: Path, service: Service, *, models: bool = False) -> None:
        self.folder, self.service, self.models = folder, service, models

    def kernel_folder(self, notebook: str) -> Path:
        """Return where a kernel's output goes."""
        return self.folder / "input" / notebook

    def log_file(self, notebook: str) -> Path:
        """Return where the log of a failed kernel goes."""
        return self.folder / "logs" / f"{notebook}.log"

    def _version_file(self, notebook: str) -> Path:
        """Return the file that says which version's output is in a kernel's folder, and whether its models are."""
        return self.kernel_folder(notebook) / ".version"

    def _fetched(self, notebook: str) -> dict:
        """Return what the version file says; nothing if there is none."""
        file = self._version_file(notebook)
        return json.loads(file.read_text("utf-8")) if file.exists() else {}

    def require_never_fetched(self, built: BuiltKernel) -> None:
        """Make sure that a kernel which Kaggle does not show is not one whose output was downloaded before.

        Raises:
            FlowersError: it is; pushed anew, it would belong to another user.
        """
        notebook = built.kernel.notebook
        if (known := self._fetched(notebook)) and known["kernel"] == built.ref:
            raise FlowersError(
                f"Kaggle does not show {built.ref}, of which it had version {known['version']}; is another user logged "
                f"in? If you deleted the kernel, remove {self.kernel_folder(notebook)} to push it anew"
            )

    def forget(self, notebook: str) -> None:
        """Take a kernel whose output was downloaded for one that Kaggle never had; its files stay."""
        self._version_file(notebook).unlink(missing_ok=True)

    def download(self, built: BuiltKernel, version: int) -> None:
        """Download a kernel's output unless that of this version is there."""
        wanted = self._description(built.ref, version, built.content)
        if not self._fetched(built.kernel.notebook).items() >= wanted.items():
            self.fetch(built.kernel.notebook, built.ref, version, built.content)

    def fetch(self, notebook: str, ref: str, version: int, content: str | None) -> None:
        """Download the output of a kernel's version, whole or not at all, in place of what is there."""
        file = self._version_file(notebook)
        with atomic_write(file.parent) as temporary:
            self.service.output(ref, version, temporary, None if self.models else NEEDED)
            (temporary / file.name).write_text(json.dumps(self._description(ref, version, content)), encoding="utf-8")

    def _description(self, ref: str, version: int, content: str | None) -> dict:
        return {"kernel": ref, "version": version, "content": content} | ({"models": True} if self.models else {})

    def save_log(self, built: BuiltKernel, version: int, attempts: int, pause: float, clock: Clock) -> Exception | None:
        """Save a kernel's log; return the error that prevented it, which must not hide why the kernel failed."""
        error = None
        for _ in range(attempts):
            try:
                text = self.service.log(built.ref, version)
            except (FlowersError, RuntimeError) as reason:
                error = reason
                clock.sleep(pause)
            else:
                with atomic_write(self.log_file(built.kernel.notebook)) as temporary:
                    temporary.write_text(text, encoding="utf-8")
                return None
        return error

    def lacked_accelerator(self, notebook: str) -> bool:
        """Return whether a failed kernel's log says that its session had no accelerator."""
        return bool(NO_ACCELERATOR.search(self.log_file(notebook).read_text("utf-8")))
