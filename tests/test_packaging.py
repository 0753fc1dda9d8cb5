"""What is installed: the packages are those of the tree, and the zoo imports from a wheel built through an sdist."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
#: folder of the tree → what it is called once installed
HOUSES = {"ppvae": "ppvae", "models": "ppvae.models", "inference": "ppvae.inference"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def sources() -> dict[str, Path]:
    """Every Python file of the library by its installed name, links not followed: "ppvae/models/vae.py" → path."""
    return {
        f"{name.replace('.', '/')}/{path.relative_to(ROOT / folder).as_posix()}": path
        for folder, name in HOUSES.items()
        for at, _, files in os.walk(ROOT / folder)
        for path in (Path(at) / file for file in files if file.endswith(".py"))
    }


PACKAGES = set(PROJECT["tool"]["setuptools"]["packages"])


def test_the_packages_are_the_tree() -> None:
    """Every folder with an __init__.py is listed, nested catalogues too, and no other."""
    found = {name.rpartition("/")[0].replace("/", ".") for name in sources() if name.endswith("/__init__.py")}
    assert found == PACKAGES
    assert {"ppvae.evidence.methods", "ppvae.models", "ppvae.cli.commands"} <= PACKAGES
    assert PROJECT["tool"]["setuptools"]["package-dir"] == {name: folder for folder, name in HOUSES.items()}


def test_every_file_lies_in_a_package() -> None:
    """A folder without an __init__.py would be left out of the wheel in silence."""
    assert [name for name in sources() if name.rpartition("/")[0].replace("/", ".") not in PACKAGES] == []


@pytest.mark.parametrize("folder", ["models", "inference"])
def test_the_links_serve_runs_from_the_root(folder: str) -> None:
    """ppvae/models → ../models, and the same for inference: relative, so that a clone has them anywhere."""
    assert os.readlink(ROOT / "ppvae" / folder) == f"../{folder}"


def test_every_import_is_a_declared_dependency() -> None:
    """What the library imports is installed with it."""
    imported = set()
    for path in sources().values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.split(".")[0])
    distributions = packages_distributions()
    needed = {
        normal(distributions[name][0])
        for name in imported - {*sys.stdlib_module_names, "ppvae"}
        if name != "__future__"
    }
    declared = {
        normal(match.group()) for text in PROJECT["project"]["dependencies"] if (match := re.match(r"[\w.-]+", text))
    }
    assert needed <= declared
    assert {"torch", "pyro-ppl"} <= needed


def normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built without network from a copy of the tree: an sdist first, and the wheel from that."""
    copy = tmp_path_factory.mktemp("build") / "tree"
    anywhere = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info")

    def ignored(folder: str, names: list[str]) -> set[str]:
        top = {"build", "dist", "runs", "tests", "notebooks"} if Path(folder) == ROOT else set()
        return {*anywhere(folder, names), *(top & {*names})}

    shutil.copytree(ROOT, copy, symlinks=True, ignore=ignored)
    (copy / "README.md").touch()
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", "dist", "."]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (built,) = (copy / "dist").glob("*.whl")
    return built


def test_the_wheel_holds_the_library_and_nothing_else(wheel: Path) -> None:
    """Each source once, byte for byte, under `ppvae/`; the marker of typed packages; no `models/` beside it."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
        assert sorted(names) == sorted([*sources(), "ppvae/py.typed"])
        assert [name for name, path in sources().items() if archive.read(name) != path.read_bytes()] == []


def test_the_wheel_names_the_command_and_the_licence(wheel: Path) -> None:
    """`ppvae` on the path, and the licence's text."""
    with zipfile.ZipFile(wheel) as archive:
        info = {name.split(".dist-info/")[1]: name for name in archive.namelist() if ".dist-info/" in name}
        assert "ppvae = ppvae.cli.main:main" in archive.read(info["entry_points.txt"]).decode()
        assert archive.read(info["licenses/LICENSE"]) == (ROOT / "LICENSE").read_bytes()


def test_the_zoo_imports_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    """All models and strategies, out of the unpacked wheel alone, where the bare names do not exist."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    program = f"""
import importlib, importlib.machinery, json, sys
sys.path.insert(0, {str(tmp_path)!r})
import ppvae
find = importlib.machinery.PathFinder.find_spec
print(json.dumps({{
    "file": ppvae.__file__,
    "models": ppvae.list_models(),
    "inference": ppvae.list_inference(),
    "bare": [name for name in ("models", "inference") if find(name, [{str(tmp_path)!r}])],
    "main": callable(importlib.import_module("ppvae.cli.main").main),
    "from": sorted({{m.__file__ for n, m in sys.modules.items() if n.split(".")[0] == "ppvae"}}),
}}))
"""
    # a folder of its own: from the root, the tree would be imported
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    for kind in ("models", "inference"):
        texts = [
            path.read_text(encoding="utf-8") for name, path in sources().items() if name.startswith(f"ppvae/{kind}/")
        ]
        assert found[kind] == sorted(re.findall(r'^@register\("([^"]+)"', "".join(texts), re.M))
    assert {"gmm", "vae"} <= set(found["models"])
    assert found["bare"] == []
    assert found["main"]
    assert [file for file in found["from"] if not file.startswith(str(tmp_path))] == []
