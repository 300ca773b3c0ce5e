"""The measurement A = Omega F S, its inversion, and the reconstructions that need no training.

- `fourier`: orthonormal transforms; centred only where files are read and images shown.
- `masks`: sampling patterns and banks of them; `discs`: Poisson discs. `calibration`: sensitivity maps, by SigPy.
- `sense`: the operator :class:`Sense`. `batch`: :class:`Batch`, the mini-batch that everything else works on.
- `solvers`: conjugate gradients and fixed points of any callable, with gradients.
- `losses`: what training minimises, of an image and its batch.
- `baselines`: zero-filled image, compressed sensing with wavelets or spatio-temporal total variation (`sparse`).
"""

from gleam.physics.batch import Batch, brightness, per_example
from gleam.physics.sense import Sense, without_readout

__all__ = ["Batch", "Sense", "brightness", "per_example", "without_readout"]
