"""The layers of docs/architecture.md: imports go down, never up; files stay small."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "transformers4rec_ext"
# From the bottom to the top; a name stands for a module or for all of a package.
LAYERS = [
    [
        *("_errors", "_files", "_memory", "_modes", "_recipe", "_checkpoint", "_build"),
        *("_lazy", "_numbers", "registry", "typing"),
    ],
    ["_native"],
    ["_backend", "_checks"],
    ["ops.reference"],
    ["ops.tiles", "ops"],
    ["ops.schemas"],
    ["functional"],
    ["samplers", "losses", "optim", "schema", "ranks"],
    [
        *("masking", "ranking_metric", "block", "tabular", "features", "config", "experimental"),
        *("utils.padding", "utils.schema_utils", "utils.torch_utils"),
    ],
    ["model"],
    ["data", "utils"],
    ["training", "trainer", "baselines", "interop"],
    ["cli", "__main__", "__init__"],
]
MODULES = sorted(PACKAGE.rglob("*.py"))


def _name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


_KNOWN = {_name(module) for module in MODULES}


def _level(module: str) -> int:
    for level, names in enumerate(LAYERS):
        if any(module == name or module.startswith(f"{name}.") for name in names if name != "ops"):
            return level
    assert module == "ops", f"{module} is in no layer; add it to LAYERS and docs/architecture.md"
    return LAYERS.index(["ops.tiles", "ops"])


def _imports(path: Path) -> set[str]:
    """Return the modules of the package that a file imports, wherever the statement stands."""
    here = ["transformers4rec_ext", *path.relative_to(PACKAGE).parts[:-1]]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.keyword) and node.arg == "home":  # a Registry imports it later
            values = [value.value for value in ast.walk(node) if isinstance(value, ast.Constant)]
            found |= {value for value in values if isinstance(value, str)}
    names = {name.removeprefix("transformers4rec_ext.") for name in found if "4rec_ext." in name}
    return names & _KNOWN


def _upward(name: str, imported: set[str]) -> list[str]:
    """Return those of the imported modules that lie above the one of that name."""
    return sorted(other for other in imported - {name} if _level(other) > _level(name))


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_imports_go_down(path: Path) -> None:
    name = _name(path)
    if name == "__init__":
        assert not _imports(path), "the package's __init__ imports nothing before it is asked"
        return
    assert _upward(name, _imports(path)) == []


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_private_modules_are_of_their_package(path: Path) -> None:
    """Those at the top (`_errors`, `_checks`, ...) are the whole package's."""
    package = _name(path).partition(".")[0]
    for imported in _imports(path):
        owner, _, rest = imported.partition(".")
        assert owner == package or not any(part.startswith("_") for part in rest.split("."))


def test_an_upward_import_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "functional" / "planted.py"
    path.parent.mkdir()
    path.write_text(
        "def late():\n    from transformers4rec_ext.model import head\n"
        "    from ..ops import reference\n    import math\n"
    )
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    monkeypatch.setitem(globals(), "_KNOWN", {"model.head", "ops.reference", "functional.planted"})
    imported = _imports(path)
    assert imported == {"model.head", "ops.reference"}
    assert _upward("functional.planted", imported) == ["model.head"]


@pytest.mark.parametrize(
    "path", sorted((PACKAGE / "ops" / "reference").glob("*.py")), ids=lambda path: path.stem
)
def test_the_reference_reads_like_a_paper(path: Path) -> None:
    tree = ast.parse(path.read_text())
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {
        a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names
    }
    own = {name for name in modules if name.startswith("transformers4rec_ext.ops.reference.")}
    allowed = {"__future__", "collections.abc", "functools", "math", "torch", "typing"}
    assert modules - own <= allowed


@pytest.mark.parametrize("folder", ["transformers4rec_ext", "csrc", "tests", "benchmarks"])
def test_no_file_is_a_room_too_large_to_know(folder: str) -> None:
    suffixes = {".py", ".cpp", ".h", ".inc", ".cu", ".cuh"}
    long = {
        str(path.relative_to(ROOT)): lines
        for path in (ROOT / folder).rglob("*")
        if path.suffix in suffixes and (lines := len(path.read_text().splitlines())) > 400
    }
    assert not long


def test_setup_is_short() -> None:
    assert len((ROOT / "setup.py").read_text().splitlines()) < 80


def test_test_modules_have_names_of_their_own() -> None:
    """Pytest imports them by their names alone."""
    names = [path.name for path in (ROOT / "tests").rglob("*.py") if path.name != "conftest.py"]
    assert sorted(names) == sorted(set(names))
