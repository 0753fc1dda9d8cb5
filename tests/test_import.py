"""What `import ppvae` and the first use of a name bring along: a user waits for it before the first word."""

import importlib.util
import subprocess
import sys

import pytest

#: modules that take long to import, and that no user needs before the first result
HEAVY = {
    "arviz", "arviz_base", "arviz_plots", "arviz_stats", "h5netcdf", "joblib", "lightning_fabric", "matplotlib",
    "pandas", "rich", "scipy", "sklearn", "torch._dynamo", "torch._inductor", "torchvision", "xarray",
}  # fmt: skip
#: code → the heavy modules that it may bring along: arviz-stats has k̂ and brings its own; so does Fabric, which trains
FIRST_USE: dict[str, set[str]] = {
    "import ppvae": set(),
    "from ppvae import Batch, Data, Local, Model, Posterior, Settings, Strategy, check, create, log_densities": set(),
    "from ppvae import list_inference, list_models, load_data, register; ppvae.create('vae', x_dim=4)": set(),
    "from ppvae import sample, reconstruct, as_pyro": set(),
    "from ppvae import log_marginal": {
        "arviz_base",
        "arviz_stats",
        "matplotlib",
        "pandas",
        "rich",
        "scipy",
        "xarray",
    },
    "from ppvae import fit": {"lightning_fabric", "rich", "torch._dynamo", "torch._inductor"},
}


def imported(code: str) -> set[str]:
    code = f"import sys, ppvae\n{code}\nprint(*(name for name in {HEAVY} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return set(done.stdout.split())


@pytest.mark.parametrize("code", FIRST_USE)
def test_heavy_modules_wait_until_they_are_used(code: str) -> None:
    assert imported(code) <= FIRST_USE[code]


def test_import_ppvae_brings_along_neither_torch_nor_pyro() -> None:
    code = "import sys, ppvae; print(*(name for name in ('torch', 'pyro', 'numpy', 'yaml') if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("", "")


def test_the_names_of_heavy_modules_are_right() -> None:
    """A name that no module has would pass the tests above for nothing."""
    assert [name for name in HEAVY if importlib.util.find_spec(name) is None] == []
