"""The outputs and logs of kernels, downloaded into one folder."""

import json
import time
from pathlib import Path

from flowerlib.config import FlowersError, atomic_write
from flowerlib.kaggle.build import BuiltKernel
from flowerlib.kaggle.service import Service


class Outputs:
    """A folder with `input/<notebook>/`, the output of each kernel, and `logs/`, of those that failed."""

    def __init__(self, folder: Path, service: Service) -> None:
        self.folder, self.service = folder, service

    def kernel_folder(self, notebook: str) -> Path:
        """Return where a kernel's output goes."""
        return self.folder / "input" / notebook

    def log_file(self, notebook: str) -> Path:
        """Return where the log of a failed kernel goes."""
        return self.folder / "logs" / f"{notebook}.log"

    def _version_file(self, notebook: str) -> Path:
        """Return the file that says which version's output is in a kernel's folder."""
        return self.kernel_folder(notebook) / ".version"

    def require_never_fetched(self, built: BuiltKernel) -> None:
        """Make sure that a kernel which Kaggle does not show is not one whose output was downloaded before.

        Raises:
            FlowersError: it is; pushed anew, it would belong to another user.
        """
        file = self._version_file(built.kernel.notebook)
        if file.exists() and (known := json.loads(file.read_text("utf-8")))["kernel"] == built.ref:
            raise FlowersError(
                f"Kaggle does not show {built.ref}, of which it had version {known['version']}; is another user logged "
                f"in? If you deleted the kernel, remove {file.parent} to push it anew"
            )

    def download(self, built: BuiltKernel, version: int) -> None:
        """Download a kernel's output, whole or not at all, unless that of this version is there."""
        description = json.dumps({"kernel": built.ref, "version": version, "content": built.content})
        file = self._version_file(built.kernel.notebook)
        if not file.exists() or file.read_text("utf-8") != description:
            with atomic_write(file.parent) as temporary:
                self.service.output(built.ref, version, temporary)
                (temporary / file.name).write_text(description, encoding="utf-8")

    def save_log(self, built: BuiltKernel, version: int, max_attempts: int, interval: float) -> RuntimeError | None:
        """Save a kernel's log; return the error that prevented it, which must not hide why the kernel failed."""
        error = None
        for _ in range(max_attempts):
            try:
                text = self.service.log(built.ref, version)
            except RuntimeError as reason:
                error = reason
                time.sleep(interval)
            else:
                with atomic_write(self.log_file(built.kernel.notebook)) as temporary:
                    temporary.write_text(text, encoding="utf-8")
                return None
        return error
