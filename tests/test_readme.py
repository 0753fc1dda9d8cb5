"""What the README shows is what runs."""

import re
from pathlib import Path

import pytest

from ppvae.evidence import method
from ppvae.variational.objective_choice import table

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def test_the_model_of_the_readme_runs_as_written(capsys: pytest.CaptureFixture[str]) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(program, "README.md", "exec"), {"__name__": "readme"})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["per-datapoint", "amortized"]
    assert all("Summary(mean=-" in line and line.endswith("reliable") for line in lines)


@pytest.mark.parametrize("page", ["README.md", "notebooks/README.md"])
def test_every_file_and_picture_that_a_page_links_exists(page: str) -> None:
    path = Path(__file__).parent.parent / page
    links = re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8"))
    links = [link for link in links if "://" not in link]
    assert links
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_the_table_of_gradients_is_the_code_s() -> None:
    assert table() in README


def test_the_table_of_methods_is_the_code_s() -> None:
    assert method.table() in README
