"""Build script: metadata in pyproject.toml, what to compile in transformers4rec_ext/_build.py."""

import runpy
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildModules(build_py):
    """Copies the modules that there are, after those of an earlier build are removed."""

    def run(self) -> None:
        """Build."""
        if not self.editable_mode:
            shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


build = runpy.run_path(str(Path(__file__).parent / "transformers4rec_ext" / "_build.py"))
arguments = build["setup_arguments"]()
arguments["cmdclass"] = {**arguments.get("cmdclass", {}), "build_py": BuildModules}
setup(**arguments)
