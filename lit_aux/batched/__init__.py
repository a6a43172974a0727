"""Fits of several networks of one architecture whose steps are computed in one batch."""

from lit_aux.batched.fits import End, fit_together
from lit_aux.batched.stack import NetworkStack

__all__ = ["End", "NetworkStack", "fit_together"]
