"""Build script: metadata in pyproject.toml, what to compile in transformers4rec_ext/_build.py."""

import runpy
import shutil
from pathlib import Path

from setuptools import setup

root = Path(__file__).parent
# What an earlier build copied there would be installed again, modules too that are no more.
for copied in (root / "build").glob("lib*"):
    shutil.rmtree(copied)
build = runpy.run_path(str(root / "transformers4rec_ext" / "_build.py"))
setup(**build["setup_arguments"]())
