"""Estimators of log p(x), one file a method."""

from ppvae.evidence import exact, importance
from ppvae.evidence.method import METHODS, method, table

__all__ = ["METHODS", "exact", "importance", "method", "table"]
