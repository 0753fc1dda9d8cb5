"""How to cite the library: the content of CITATION.cff, as the file itself is not installed."""

from __future__ import annotations

from importlib.metadata import version

AUTHORS = "The ppvae developers"
TITLE = "ppvae: latent-variable models under every inference strategy"
LICENSE = "Apache-2.0"
MESSAGE = (
    "If ppvae helped your work, please cite it, and the papers of the methods that you used (each file names its own)."
)


def as_text(release: str | None = None) -> str:
    """A line for a list of references; where `release` is None, for the installed release."""
    return f"{AUTHORS}. {TITLE}. Version {release or version('ppvae')}. Software, {LICENSE}."


def as_bibtex(release: str | None = None) -> str:
    """The same for BibTeX; double braces keep a name in one part and its case."""
    name, rest = TITLE.split(":", 1)
    return (
        "@software{ppvae,\n"
        f"  author  = {{{{{AUTHORS}}}}},\n"
        f"  title   = {{{{{name}}}:{rest}}},\n"
        f"  version = {{{release or version('ppvae')}}},\n"
        f"  license = {{{LICENSE}}}\n"
        "}"
    )
