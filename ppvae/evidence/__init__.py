"""Estimators of log p(x), one file a method."""

# the order of imports is that of the table of methods
# ruff: noqa: I001
from ppvae.evidence import naive, importance, refined, laplace, ais, exact
from ppvae.evidence.method import METHODS, method, table

__all__ = ["METHODS", "ais", "exact", "importance", "laplace", "method", "naive", "refined", "table"]
