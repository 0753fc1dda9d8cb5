"""The zoo, one file a model, each readable alone from top to bottom."""

from ppvae.models.dlgm import DLGM
from ppvae.models.gmm import GMM
from ppvae.models.ppca import PPCA
from ppvae.models.vae import VAE

__all__ = ["DLGM", "GMM", "PPCA", "VAE"]
