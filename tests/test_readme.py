"""What the README shows is what runs."""

import ast
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from test_house import MAY_IMPORT, TREES

from ppvae.catalogue import CATALOGUES
from ppvae.evidence import method
from ppvae.variational.objective_choice import table

README, CONTRIBUTING = (
    (Path(__file__).parent.parent / page).read_text(encoding="utf-8") for page in ("README.md", "CONTRIBUTING.md")
)


def test_the_model_of_the_readme_runs_as_written(capsys: pytest.CaptureFixture[str]) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(program, "README.md", "exec"), {"__name__": "readme"})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["per-datapoint", "amortized"]
    assert all("Summary(mean=-" in line and line.endswith("reliable") for line in lines)


@pytest.mark.parametrize(
    "page", ["README.md", "notebooks/README.md", "notebooks/choosing.md", "notebooks/comparison.md"]
)
def test_every_file_and_picture_that_a_page_links_exists(page: str) -> None:
    path = Path(__file__).parent.parent / page
    links = re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8"))
    links = [link for link in links if "://" not in link]
    assert links
    assert [link for link in links if not (path.parent / link).exists()] == []


def cells(table: str) -> dict[tuple[str, str], str]:
    """(row, column) → what stands there."""
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return {(row[0], name): cell for row in rows for name, cell in zip(head[1:], row[1:], strict=True)}


@pytest.mark.parametrize("code", [table, method.table], ids=["gradients", "methods"])
def test_what_a_table_of_the_readme_says_is_true(code: Callable[[], str]) -> None:
    """An entry that is new need not stand there: `ppvae list` has it."""
    first = code().splitlines()[0].split("|")[1].strip()
    (shown,) = [part for part in re.findall(r"(?:^\|.*\n)+", README, re.M) if part.split("|")[1].strip() == first]
    assert len(cells(shown)) > 10
    assert cells(shown).items() <= cells(code()).items()


def test_the_table_of_wings_says_what_the_tests_hold() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+\?) \| ([^|]+) \|$", CONTRIBUTING, re.MULTILINE)
    wings = [wing for wing, _, _ in rows]
    assert sorted(wings) == sorted(MAY_IMPORT)
    for at, (wing, question, imports) in enumerate(rows):
        names = set(wings[at + 1 :]) if imports == "all below" else set(re.findall(r"`(\w+)`", imports))
        assert names == MAY_IMPORT[wing] - {wing}, wing
        assert names <= set(wings[at + 1 :]), f"{wing} imports a wing that stands above it"
        assert (ast.get_docstring(TREES[f"ppvae.{wing}"]) or "").startswith(question), wing


def test_the_table_of_entries_names_every_folder_and_base() -> None:
    rows = re.findall(
        r"^\| an? [^|]+ \| `([\w/]+)/` \| `@(?:\w+\.)?register\([^|]+ \| (.+) \|$", CONTRIBUTING, re.MULTILINE
    )
    tops = {"ppvae/models": "models", "ppvae/inference": "inference"}
    folders = [catalogue.folder.replace(".", "/") for catalogue in CATALOGUES.values()]
    assert sorted(folder for folder, _ in rows) == sorted(tops.get(folder, folder) for folder in folders)
    for _, what in rows:
        *names, module = re.findall(r"`(?:\([^`]*→ )?([\w.]+)`", what)
        defined = {node.name for node in TREES[module].body if isinstance(node, ast.ClassDef)}
        assert set(names) <= defined, what
