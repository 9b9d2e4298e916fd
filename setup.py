"""Build script: metadata in pyproject.toml, what to compile in transformers4rec_ext/_build.py."""

import runpy
from pathlib import Path

from setuptools import setup

build = runpy.run_path(str(Path(__file__).parent / "transformers4rec_ext" / "_build.py"))
ext_modules = build["extensions"]()

if ext_modules:
    from torch.utils.cpp_extension import BuildExtension

    setup(
        ext_modules=ext_modules,
        cmdclass={"build_ext": BuildExtension},
        options={"bdist_wheel": {"py_limited_api": "cp310"}},
    )
else:
    setup()
