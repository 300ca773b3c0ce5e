"""What the strategies around another one share."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from gleam.physics.batch import Batch
from gleam.physics.losses import complex_l1
from gleam.strategies.base import Strategy


class Within(Strategy):
    """A strategy that leaves the activations inside a module to another one, its field `within`.

    Raises ValueError if that one, which only keeps activations, was given a loss: it would not be used.
    """

    within: Strategy

    def __post_init__(self):
        if self.within.loss is not complex_l1:
            raise ValueError(f"the loss of within={self.within} is not used; give loss= to the strategy around it")

    @property
    def is_capturable(self) -> bool:
        """As `within`."""
        return self.within.is_capturable

    @property
    def needs_fp32(self) -> bool:
        """As `within`."""
        return self.within.needs_fp32

    @property
    def propagation(self) -> Strategy:
        """The strategy inside a module."""
        return self.within

    def propagate(self, iterations: Sequence[nn.Module], x: Tensor, batch: Batch) -> Tensor:
        """Run `iterations` on `x` as `within` does."""
        return self.within.propagate(iterations, x, batch)

    def diagnostics(self) -> dict:
        """Those of `within`."""
        return self.within.diagnostics()
