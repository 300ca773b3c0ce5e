"""The command `gleam`: reconstruct a raw file with a trained network, or list the runs of a folder."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; returns 2, after one sentence, if something is wrong with it."""
    parser = argparse.ArgumentParser(prog="gleam", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="{reconstruct,runs}")
    one = commands.add_parser("reconstruct", help="reconstruct a raw file", description=reconstruct.__doc__)
    one.add_argument("run", metavar="RUN", help="folder of a run, or archived weights below results/")
    one.add_argument("file", metavar="FILE", type=Path, help="fastMRI's HDF5, ISMRMRD, or CMRxRecon's .mat")
    one.add_argument(
        "--out", required=True, type=Path, help="image.nii.gz, image.nii (magnitudes) or image.h5 (complex)"
    )
    one.add_argument("--slices", type=_range, default=(None, None), metavar="N[:M]", help="one slice, or N to M - 1")
    one.add_argument(
        "--acceleration", type=float, metavar="R", help="for a fully sampled file; default: the training's"
    )
    one.add_argument("--seed", type=int, default=0, help="of the mask for a fully sampled file")
    one.add_argument("--device", default="cpu", help="cpu, cuda or cuda:1")
    one.add_argument("--force", action="store_true", help="overwrite what is there")
    listed = commands.add_parser("runs", help="list runs or archived weights, the best first")
    listed.add_argument("folder", metavar="FOLDER", type=Path)
    given = vars(parser.parse_args(arguments))
    try:
        runs(**given) if given.pop("command") == "runs" else reconstruct(**given)
    except (ImportError, MemoryError, OSError, RuntimeError, ValueError) as error:
        print("gleam:", " ".join(str(error).splitlines()), file=sys.stderr)  # torch's errors have several lines
        return 2
    return 0


def runs(folder: Path) -> None:
    """Print the runs of a folder."""
    from gleam.training import runs as table_of

    found = table_of(folder)
    if found.empty:
        raise ValueError(f"{folder}: holds no run; expected the run_dir of gleam.fit, or archived weights")
    print(found.to_string(max_colwidth=60))


def reconstruct(run: str, file: Path, out: Path, force: bool, **options) -> None:
    """Reconstruct a raw file. If it is fully sampled, it is undersampled first, and the result is scored."""
    from gleam.records.cards import kind
    from gleam.records.outputs import check_output, write_images
    from gleam.training.raw_files import reconstruct_file

    if out.resolve() == file.resolve():
        raise ValueError(f"{out}: is the raw file itself; choose another name")
    picture = check_output(out, overwrite=force)  # before the work, which may take minutes
    found = reconstruct_file(run, file, **options)
    train = found.about["train"]
    label = f"trained on {kind(train)}: not for diagnosis"
    print(f"{run}: {found.about['network']}, {label}")
    print(
        f"  {train['acquisition']}, {train['mask']['function']}, R = {train['mask']['arguments'].get('acceleration')}"
    )
    sizes = " x ".join(map(str, found.images.shape[1:]))
    print(f"{file}: {len(found.images)} x {sizes}, {found.source['n_coils']} coils, {found.source['acquisition']}")
    for note in found.notes:
        print(f"  {note}")
    print(f"sensitivity maps: {found.maps}")
    print(_said(found))
    for warning in found.warnings:
        print(f"gleam: {warning}", file=sys.stderr)
    write_images(out, found, label)
    _picture(found, label).save(picture)
    print(f"written: {out} and {picture}")


def _said(found):
    if found.scores is None:
        return (
            f"reconstructed as measured, R = {found.acceleration:.2g}; without a fully sampled image there is no score"
        )
    rows = (
        f"nRMSE {row.nrmse:.4f}, PSNR {row.psnr:.2f} dB, SSIM {row.ssim:.3f}"
        for row in (found.scores.loc[name] for name in ("Reconstruction", "Zero-filled"))
    )
    return f"undersampled here, R = {found.acceleration:.3g}: " + " beside zero-filled ".join(rows)


def _picture(found, label):
    """The middle slice, and its middle frame."""
    from gleam.records.pictures import compare, panels

    aspect, number = found.spacing[1] / found.spacing[2], len(found.images) // 2
    shown = {"Zero-filled": _middle(found.zero_filled[number]), "Reconstruction": _middle(found.images[number])}
    words = f"slice {number + 1} of {len(found.images)}, R = {found.acceleration:.3g}; {label}"
    if found.target is None:
        window = float(shown["Reconstruction"].abs().flatten().quantile(0.99))
        return panels(shown, window=window or None, aspect=aspect, label=words)  # an empty image has no window
    return compare(shown, _middle(found.target[number]), aspect=aspect, label=words)


def _middle(image):
    return image[len(image) // 2] if image.ndim == 3 else image


def _range(text):
    found = re.fullmatch(r"(\d+)|(\d*):(\d*)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r}; expected a slice such as 3, or slices such as 3:7")
    one, first, last = (int(number) if number else None for number in found.groups())
    return (first, last) if one is None else (one, one + 1)


if __name__ == "__main__":
    sys.exit(main())
