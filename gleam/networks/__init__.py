"""Unrolled networks: a start, and a list of iterations that can be cut into modules anywhere.

- `convolutions`: 2D and 3D convolutions in the current number format and memory layout.
- `lipschitz`: how far a CNN can stretch an image. `denoisers`: CNNs of complex images; the only place where complex
  numbers become two channels.
- `iterations`: one of PGD, one of MoDL, and two whose inverse is not watched. `unrolled`: the networks made of them.
- `protocol`: what training asks of a network. `adapt`: networks of other packages in that form.
"""

from gleam.networks.denoisers import PlainCNN, ResidualCNN
from gleam.networks.unrolled import MoDLIteration, PGDIteration, Unrolled, modl, pgd, split

__all__ = ["MoDLIteration", "PGDIteration", "PlainCNN", "ResidualCNN", "Unrolled", "modl", "pgd", "split"]
