"""Writes the generated modules into the wheel; see generate.py."""

import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

HERE = Path(__file__).parent


class GenerateHook(BuildHookInterface):  # type: ignore[type-arg]
    """Generates from the protocol files of the repository, or of the source distribution."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        import sys

        sys.path.insert(0, str(HERE))
        import generate

        if version == "editable":
            # Found by import where they lie; .gitignore knows them.
            generate.write(HERE / "src" / "chronarch")
            return
        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        for name in generate.write(folder):
            build_data["force_include"][str(folder / name)] = f"chronarch/{name}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        folder = getattr(self, "_folder", None)
        if folder is not None:
            folder.cleanup()
