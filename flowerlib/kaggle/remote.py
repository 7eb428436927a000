"""The newest version of a kernel on Kaggle, read from the response of its API."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from flowerlib.kaggle.build import BuiltKernel, code_digest
from flowerlib.kaggle.embedding import CONTENT_LINE, SOURCES_LINE, code_sources

if TYPE_CHECKING:
    from kagglesdk.kernels.types.kernels_api_service import ApiGetKernelResponse


@dataclass(frozen=True)
class RemoteKernel:
    """The newest version of a kernel on Kaggle.

    Attributes:
        version: its number.
        content: the content hash in its notebook; None if there is none.
        source_versions: the versions of other kernels that it was sent to read, as owner/slug/number.
        attached: the datasets and kernels attached to it as owner/slug/number, the competitions as slug.
        code: the digest of its notebook's code, as `build.code_digest` computes it.
        last_run: when it was last run, in UTC; None if that is not known.
    """

    version: int
    content: str | None
    source_versions: tuple[str, ...]
    attached: frozenset[str]
    code: str
    last_run: datetime | None

    @classmethod
    def from_response(cls, response: "ApiGetKernelResponse") -> "RemoteKernel":
        """Read the response to GetKernel."""
        metadata, notebook = response.metadata, _parse_notebook(response.blob.source)
        first_cell = next(iter(code_sources(notebook)), "")
        content, sources = CONTENT_LINE.search(first_cell), SOURCES_LINE.search(first_cell)
        attached = (
            *(metadata.dataset_data_sources or ()),
            *(metadata.kernel_data_sources or ()),
            *(metadata.competition_data_sources or ()),
        )
        return cls(
            version=metadata.current_version_number,
            content=content and content[1],
            source_versions=tuple(sources[1].split()) if sources else (),
            attached=frozenset(attached),
            code=code_digest(notebook),
            last_run=metadata.last_run_time and metadata.last_run_time.replace(tzinfo=UTC),
        )

    def mismatch(self, built: BuiltKernel, source_versions: list[str]) -> str:
        """Return how it differs from a kernel with the same content hash, in words; empty if it does not.

        Args:
            built: the kernel.
            source_versions: that the kernel is to read, as owner/slug/number.
        """
        metadata = built.metadata
        wanted = [source for kind in ("dataset", "kernel", "competition") for source in metadata[f"{kind}_sources"]]
        attached = {_without_version(source) for source in self.attached}
        if missing := [source for source in wanted if _without_version(source) not in attached]:
            return f"runs without {', '.join(missing)}"
        if list(self.source_versions) != source_versions:
            return "read other versions of its sources"
        return "" if self.code == code_digest(built.notebook) else "was edited on Kaggle"


def _without_version(source: str) -> str:
    """Return owner/slug in lower case; Kaggle may add the version as a third part, and write capitals."""
    return "/".join(source.split("/")[:2]).lower()


def _parse_notebook(text: str) -> dict:
    """Parse a notebook; return one without cells if the text is not a notebook."""
    try:
        notebook = json.loads(text)
        code_sources(notebook)
    except (ValueError, TypeError, KeyError):
        return {"cells": []}
    return notebook
