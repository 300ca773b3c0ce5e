"""ISMRMRD headers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from xml.etree import ElementTree

PHANTOM_VENDOR = "GLEAM phantom"
PROTON_HZ_PER_TESLA = 42.577478518e6
LARGEST_COUNT = 65535  # of an ISMRMRD file, whose counters have 16 bits
EXPECTED = "expected XML of ismrmrd.xsd"


@dataclass(frozen=True)
class Header:
    """The part of an ISMRMRD header that reconstruction needs.

    Each attribute is read when it is first asked for, so that a value nobody uses may be anything: ValueError, naming
    the file, if it is not what is expected.

    Parameters
    ----------
    root : Element
        Of the XML.
    path : path
        The file, for messages.
    """

    root: ElementTree.Element
    path: str | Path

    @cached_property
    def encoded(self) -> tuple[int, int, int]:
        """Matrix size (x, y, z) of what was measured; x is the readout."""
        return self._matrix("encodedSpace")

    @cached_property
    def recon(self) -> tuple[int, int, int]:
        """Matrix size (x, y, z) of the image."""
        return self._matrix("reconSpace")

    @cached_property
    def centers(self) -> tuple[int | None, int | None]:
        """Line at the centre of k-space for encoding steps 1 and 2; None if not stated."""
        limits = "encoding/encodingLimits/kspace_encoding_step_"
        first, second = (self._number(f"{limits}{step}/center", 0, LARGEST_COUNT) for step in (1, 2))
        return None if first is None else int(first), None if second is None else int(second)

    @cached_property
    def spacing(self) -> tuple[float, float, float]:
        """Size in mm per sample of the encoded field of view (x, y, z); 1 along a side without usable field of view."""
        x, y, z = (
            side / n if side > 0 else 1.0
            for side, n in zip(self._field_of_view("encodedSpace"), self.encoded, strict=True)
        )
        return x, y, z

    @cached_property
    def oversampling(self) -> float:
        """Encoded over recon field of view along the readout; 1 if not stated."""
        encoded, recon = (self._field_of_view(space)[0] for space in ("encodedSpace", "reconSpace"))
        return encoded / recon if encoded > recon > 0 else 1.0

    @cached_property
    def trajectory(self) -> str | None:
        """Such as "cartesian"; None if not stated."""
        trajectory = self._text("encoding/trajectory")
        return trajectory and trajectory.strip()

    @cached_property
    def protocol(self) -> str | None:
        """Name of the protocol; None if not stated."""
        return self._text("measurementInformation/protocolName")

    @cached_property
    def field_strength(self) -> float | None:
        """In tesla, or else computed from the proton frequency; None if not stated (files also write zero then)."""
        if tesla := self._number("acquisitionSystemInformation/systemFieldStrength_T"):
            return tesla
        frequency_hz = self._number("experimentalConditions/H1resonanceFrequency_Hz")
        return round(frequency_hz / PROTON_HZ_PER_TESLA, 4) if frequency_hz and frequency_hz > 0 else None

    @cached_property
    def is_phantom(self) -> bool:
        """Whether this project simulated the scan."""
        return self._text("acquisitionSystemInformation/systemVendor") == PHANTOM_VENDOR

    def _matrix(self, space):
        least = {"x": 1, "y": 1, "z": 0}
        places = {axis: f"encoding/{space}/matrixSize/{axis}" for axis in "xyz"}
        sizes = {axis: self._number(place, least[axis], LARGEST_COUNT) for axis, place in places.items()}
        if missing := [places[axis] for axis, size in sizes.items() if size is None]:
            raise ValueError(f"{self.path}: the ISMRMRD header cannot be read (no {missing[0]}); {EXPECTED}")
        return tuple(max(1, int(size)) for size in sizes.values())  # some files write z = 0 for 2D

    def _field_of_view(self, space):
        return [self._number(f"encoding/{space}/fieldOfView_mm/{axis}") or 0.0 for axis in "xyz"]

    def _text(self, place):
        """Text of the first element at `place`, None if it is empty or not there."""
        found = self.root.find("/".join("{*}" + name for name in place.split("/")))  # {*}: any XML namespace, or none
        return None if found is None else found.text or None

    def _number(self, place, least=-math.inf, most=math.inf):
        """The finite number at `place`, a whole one between `least` and `most` if they are given; None if not there."""
        if not (text := (self._text(place) or "").strip()):
            return None
        expected = "a finite number" if most == math.inf else f"a whole number from {least} to {most}"
        try:
            value = float(text)
        except ValueError:
            value = math.nan  # refused below
        if not (math.isfinite(value) and least <= value <= most and (most == math.inf or value.is_integer())):
            raise ValueError(
                f"{self.path}: the ISMRMRD header cannot be read ({place} is {text[:40]!r}; expected {expected})"
            )
        return value


def parse(xml: bytes | str, path: str | Path) -> Header:
    """Parse the ISMRMRD header `xml` of file `path`; ValueError, naming the file, if it is not one."""
    content = (xml if isinstance(xml, bytes) else str(xml).encode()).strip(b"\0 \t\r\n")
    try:
        if b"<!DOCTYPE" in content:  # where entities are declared, which may expand without end
            raise ValueError("it declares a document type")
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise ValueError(f"{path}: the ISMRMRD header cannot be read ({error}); {EXPECTED}") from None
    if root.find("{*}encoding") is None:
        raise ValueError(f"{path}: the ISMRMRD header cannot be read (no encoding); {EXPECTED}")
    return Header(root, path)
