"""`ppvae new`: a short commented model to start from."""

from __future__ import annotations

import keyword
import re
from pathlib import Path

from ppvae.catalogue import register
from ppvae.cli.command import Command
from ppvae.errors import PpvaeError
from ppvae.options import option
from ppvae.runs.files import free_file, write_text


@register("new", order=8, subject="file", required=True)
class NewCommand(Command):
    """Write a short commented model of your own that already runs."""

    file: str | None = option(None, "a new file, such as my_model.py")

    def run(self) -> None:
        assert self.file is not None
        path = write_model(Path(self.file))
        print(f"{path}; next: ppvae compare {path}:{class_name(path)} --data digits")


_TEXT = '''"""A model of my own. Try it: ppvae compare {file}:{name} --data digits"""

import pyro
import torch
from pyro.distributions import Bernoulli, Normal

import ppvae


class {name}(ppvae.Model):
    """z ~ Normal(0, I), x ~ Bernoulli(logits = f(z)).

    Args:
        x_dim: numbers in one datapoint; taken from the data.
        latent_dim: size of z.
    """

    def __init__(self, x_dim: int, latent_dim: int = 8) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        # everything that is learned is an ordinary torch module or parameter
        self.decoder = torch.nn.Sequential(
            torch.nn.Linear(latent_dim, 100), torch.nn.ReLU(), torch.nn.Linear(100, x_dim)
        )

    def model(self, x):
        """The generative process of x [B, x_dim]; latents are [S, B, ...], S particles."""
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", Normal(x.new_zeros(self.latent_dim), 1.0).to_event(1))
            # real-valued data: Normal(self.decoder(z), 1.0).to_event(1)
            pyro.sample("x", Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    # That is all: the family is a mean field, the encoder a default network. Where the family matters, declare
    # self.phi = {{"loc": ppvae.Local(torch.zeros(latent_dim)), ...}} and write guide(self, x, phi); a recognition
    # network of your own is encoder(self). ppvae.check(model, x) says what is wrong with a pair.
'''


def class_name(path: Path) -> str:
    """my_model.py → MyModel."""
    return "".join(word[:1].upper() + word[1:] for word in re.split(r"[^A-Za-z0-9]+", path.stem))


def write_model(path: Path) -> Path:
    """Write the model into a new .py file.

    Raises:
        PpvaeError: the file exists, is not a .py, or its name makes no class name.
    """
    free_file(path, ".py")
    name = class_name(path)
    if not name.isidentifier() or keyword.iskeyword(name):
        raise PpvaeError(f"{path.name!r} makes no class name: choose one like my_model.py")
    write_text(path, _TEXT.format(file=path, name=name))
    return path
