"""Where code stands, and what it may import: read from the source, nothing is run."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import ppvae

ROOT = Path(__file__).resolve().parents[1]
#: files of the library that every wing may import
BASE = {
    "blocks", "catalogue", "entry", "errors", "memory", "options", "progress", "randomness", "require", "vision",
}  # fmt: skip
#: wing → the wings that it may import, beside itself and the base files; none stands on a higher level
MAY_IMPORT: dict[str, set[str]] = {
    "distributions": set(),
    "nn": {"distributions"},
    "data": set(),
    "runs": set(),
    "plots": {"runs"},
    "pair": {"data", "distributions", "nn"},
    "variational": {"data", "pair"},
    "models": {"nn", "distributions", "data", "pair"},
    "inference": {"nn", "data", "pair", "variational"},
    "evidence": {"distributions", "data", "pair", "variational"},
    "training": {"data", "runs", "nn", "pair", "variational"},
    "tasks": {"data", "runs", "pair", "variational", "evidence"},
    "report": {"data", "runs", "plots", "training", "evidence", "tasks"},
    "diagnostics": {
        "distributions", "nn", "data", "pair", "variational", "models", "inference", "evidence", "training", "tasks",
    },
}  # fmt: skip
MAY_IMPORT["comparison"] = MAY_IMPORT["diagnostics"] | {"runs", "diagnostics"}
MAY_IMPORT["cli"] = {*MAY_IMPORT}
#: folders with one file per entry → the machinery that looks these up
CATALOGUES = {
    "models": "pair", "inference": "variational", "pair.families": "pair", "variational.objectives": "variational",
    "variational.gradients": "variational", "nn.likelihoods": "nn", "evidence.methods": "evidence",
    "data.sources": "data", "training.schedules": "training", "cli.commands": "cli",
}  # fmt: skip
LINES = 300


def _modules() -> dict[str, Path]:
    """Module name → file: links are not followed, so that a file counts once."""
    places = {"ppvae": ROOT / "ppvae", "ppvae.models": ROOT / "models", "ppvae.inference": ROOT / "inference"}
    found = {}
    for name, folder in places.items():
        for path in sorted(folder.rglob("*.py")):
            inner = path.relative_to(folder)
            if name == "ppvae" and inner.parts[0] in ("models", "inference"):
                continue
            found[".".join([name, *inner.with_suffix("").parts]).removesuffix(".__init__")] = path
    return found


MODULES = _modules()
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def imported(name: str, *, at_once: bool = False) -> Iterator[str]:
    """The modules of ppvae that a module imports; with `at_once` those alone that its own import brings along."""
    todo: list[ast.AST] = [TREES[name]]
    while todo:
        node = todo.pop()
        if at_once and isinstance(node, ast.FunctionDef | ast.Lambda):
            continue
        todo += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names if each.name.split(".")[0] == "ppvae")
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "ppvae":
            for each in node.names:
                full = f"{node.module}.{each.name}"
                yield full if full in MODULES else node.module


def wing(name: str) -> str:
    return [*name.split("."), ""][1]


@pytest.mark.parametrize("name", MODULES)
def test_imports_run_downwards(name: str) -> None:
    if name == "ppvae":
        return
    for other in imported(name):
        assert other != "ppvae", f"{name} imports the names of ppvae/__init__.py"
        if wing(other) in BASE:
            continue
        assert wing(name) not in BASE, f"{name}, which every wing may import, imports {other}"
        assert wing(other) in {wing(name), *MAY_IMPORT[wing(name)]}, f"{name} imports {other}"


def test_no_import_goes_round_in_a_circle() -> None:
    state: dict[str, str] = {}

    def visit(name: str, path: list[str]) -> None:
        assert state.get(name) != "open", f"a circle: {' → '.join([*path[path.index(name) :], name])}"
        if name in state:
            return
        state[name] = "open"
        for other in imported(name):
            if name != "ppvae" and other != "ppvae" and other in MODULES and MODULES[other].stem != "__init__":
                visit(other, [*path, name])
        state[name] = "done"

    for name in MODULES:
        visit(name, [])


@pytest.mark.parametrize("folder", CATALOGUES)
def test_machinery_imports_no_entry_of_its_catalogue(folder: str) -> None:
    """Entries are looked up by name, so that adding one changes no other file."""
    machinery = [name for name in MODULES if wing(name) == CATALOGUES[folder] and f"ppvae.{folder}" not in name]
    bad = {name: other for name in machinery for other in imported(name) if other.startswith(f"ppvae.{folder}.")}
    assert bad == {}


def test_every_folder_opens_with_its_question() -> None:
    for name, path in MODULES.items():
        if path.stem == "__init__":
            doc = ast.get_docstring(TREES[name])
            assert doc, name
            assert name == "ppvae" or "?" in doc.splitlines()[0], name


def test_every_wing_has_a_place_in_the_table() -> None:
    folders = {wing(name) for name, path in MODULES.items() if path.stem == "__init__" and name != "ppvae"}
    assert folders == {*MAY_IMPORT}
    assert {wing(name) for name in MODULES if name.count(".") == 1} - folders == BASE


@pytest.mark.parametrize("name", MODULES)
def test_no_file_is_long(name: str) -> None:
    assert len(MODULES[name].read_text(encoding="utf-8").splitlines()) <= LINES


def test_no_module_is_named_like_a_public_function() -> None:
    public = {name for name in ppvae.__all__ if callable(getattr(ppvae, name))}
    assert {name for name in MODULES if name.rpartition(".")[2] in public} == set()


def test_every_file_and_every_public_name_is_documented() -> None:
    missing = [name for name, tree in TREES.items() if not ast.get_docstring(tree)]
    missing += [name for name in ppvae.__all__ if not (getattr(ppvae, name).__doc__ or "").strip()]
    assert missing == []


#: what `import ppvae` offers, and no more
PUBLIC = """
    Model Local Posterior Pair Strategy register create check log_densities  Data Batch load_data  Settings fit Fit load
    log_marginal summarise evaluate gaps  compare  sample reconstruct as_pyro to_datatree
    sbc posterior_predictive_check latent_usage bdmc gradient_variance  list_models list_inference available
    PpvaeError  models inference plots
"""


def test_the_public_names_are_those_listed() -> None:
    assert sorted(ppvae.__all__) == sorted(PUBLIC.split())


def test_type_checkers_see_the_names_that_python_loads() -> None:
    """The imports under TYPE_CHECKING say the same as the table that `__getattr__` reads."""
    source = MODULES["ppvae"].read_text(encoding="utf-8")
    seen = {name for line in re.findall(r"^    from ppvae\S* import (.+)$", source, re.M) for name in line.split(", ")}
    assert seen == set(ppvae.__all__)
    for name in seen:
        value = getattr(ppvae, name)
        if home := getattr(value, "__module__", None):
            assert f"from {home} import" in source


# Tests

TESTS = {
    str(path.relative_to(ROOT)): ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted((ROOT / "tests").rglob("*.py"))
}


def test_tests_mirror_the_wings() -> None:
    """The other folders: tests over catalogues, exact answers by other means, and speed."""
    folders = {Path(name).parts[1] for name in TESTS if len(Path(name).parts) > 2}
    assert folders - {"contract", "oracles", "benchmarks"} == {*MAY_IMPORT}


@pytest.mark.parametrize("name", TESTS)
def test_no_test_reaches_for_a_private_name_of_the_library(name: str) -> None:
    """Neither imported, nor an attribute of an imported module, nor replaced by `monkeypatch.setattr`."""
    private, modules = [], set()
    for node in ast.walk(TESTS[name]):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ppvae":
            modules |= {each.asname or each.name for each in node.names}
            private += [each.name for each in node.names if each.name.startswith("_")]
    for node in ast.walk(TESTS[name]):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            private += [node.attr] if re.match("_[A-Za-z]", node.attr) else []
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "setattr":
            where, *words = node.args
            ours = not (isinstance(where, ast.Name) and where.id not in modules and not where.id.isupper())
            words = [word.value for word in (where, *words) if isinstance(word, ast.Constant)]
            private += [str(w) for w in words if ours and re.match("_[A-Za-z]", str(w).rpartition(".")[2])]
    assert private == []
