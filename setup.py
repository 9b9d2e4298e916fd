"""Build script: metadata in pyproject.toml, what to compile in transformers4rec_ext/_build.py."""

import runpy
from pathlib import Path

from setuptools import setup

build = runpy.run_path(str(Path(__file__).parent / "transformers4rec_ext" / "_build.py"))
setup(**build["setup_arguments"]())
