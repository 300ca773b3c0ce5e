"""Phantoms that write the real raw formats, so that every later step runs as it does on real data.

- `knee` writes ISMRMRD files like those of mridata.org, `brain` multicoil files like those of fastMRI, `heart` series
  like those of OCMR (`plan`, `generate`).
- Anatomy (`knee_anatomy`, `brain_anatomy`, `heart_anatomy`), acquisition (`acquire`) and file formats (`write`) do not
  import each other; `scan` joins the first two, `subject` writes the result.
- `simulated`: the same scans straight into memory (`phantom_scans`). `magnitudes`: real anatomy, simulated coils and
  noise.
"""

from __future__ import annotations

from gleam.phantoms import magnitudes, simulated
from gleam.phantoms.generate import brain, heart, knee

__all__ = ["brain", "heart", "knee", "magnitudes", "simulated"]
