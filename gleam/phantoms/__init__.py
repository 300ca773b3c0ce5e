"""Phantoms that write the real raw formats, so that every later step is the one that real data takes.

- `knee` writes mridata.org's ISMRMRD files, `brain` fastMRI's multicoil files, `heart` series like OCMR's (`generate`).
- Anatomy (`knee_anatomy`, `brain_anatomy`, `heart_anatomy`), acquisition (`acquire`) and file formats (`write`) know
  nothing of each other; `scan` joins the first two, `subject` writes the outcome.
- `simulated`: the same scans straight into memory. `magnitudes`: real anatomy, simulated coils and noise.
"""

from gleam.phantoms.generate import brain, heart, knee

__all__ = ["brain", "heart", "knee"]
