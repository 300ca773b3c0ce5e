"""Lesions that training never had: discs drawn into a knee, and how well a reconstruction keeps them."""

import numpy as np
from scipy.ndimage import uniform_filter

from gleam.phantoms.scan import KNEE_FOV_MM, axis

LESIONS_MM, CONTRAST = (4, 8, 16), 0.5  # diameters; share by which tissue is brighter or darker


def lesioned(image, seed):
    """`image` with a bright and a dark disc of each size in it, and (y, x, diameter in mm, sign) of each.

    Discs lie in tissue that is not dark, and apart from each other. They multiply the image by 1 + or - `CONTRAST`,
    with an edge of 1 mm, so that the texture of the tissue goes on inside.
    """
    generator, found = np.random.default_rng(seed), []
    y, x = (axis(n, fov) for n, fov in zip(image.shape, KNEE_FOV_MM[1:], strict=True))
    bright = np.percentile(image, 95)
    # the large ones first, while there is room
    for diameter in sorted(LESIONS_MM, reverse=True):
        size = [round(1.5 * diameter / abs(side[1] - side[0])) for side in (y, x)]
        # tissue all around, and no dark voxel in the middle
        places = np.argwhere((uniform_filter(image, size) > 0.4 * bright) & (image > 0.2 * bright))
        for sign in (1, -1):
            for i, j in generator.permutation(places):
                apart = [np.hypot(y[i] - v, x[j] - u) - (diameter + d) / 2 for v, u, d, _ in found]
                if min(apart, default=9) > 4:  # mm between their edges
                    break
            else:
                raise ValueError(f"no room is left in the image for a lesion of {diameter} mm")
            found.append((float(y[i]), float(x[j]), diameter, sign))
    for v, u, diameter, sign in found:
        disc = np.clip(diameter / 2 - np.hypot(y[:, None] - v, x - u) + 0.5, 0, 1)
        image = image * (1 + sign * CONTRAST * disc)
    return image, found


def lesion_scores(images, targets, discs):
    """How well lesions are reconstructed: `images` and `targets` are magnitudes (with lesions, without).

    `contrast_*`: the change that the lesion makes in the reconstruction, projected on the change it makes in the
    reference, inside the disc; 1 if the lesion is kept, 0 if it is lost. `nrmse_lesions`: error inside all discs;
    `nrmse_same_place`: the same pixels without lesions.
    """
    y, x = (axis(n, fov) for n, fov in zip(targets[0].shape, KNEE_FOV_MM[1:], strict=True))
    change, true_change = images[0] - images[1], targets[0] - targets[1]
    inside, found = np.zeros(targets[0].shape, bool), {}
    for v, u, diameter, sign in discs:
        # with its blurred edge, 1 mm wide
        disc = np.hypot(y[:, None] - v, x - u) <= diameter / 2 + 1
        inside |= disc
        kept = float((change * true_change)[disc].sum() / np.square(true_change[disc]).sum())
        for group in (f"{diameter}mm", "bright" if sign > 0 else "dark"):
            found.setdefault(group, []).append(kept)
    errors = [
        float(np.linalg.norm((a - b)[inside]) / np.linalg.norm(b[inside])) for a, b in zip(images, targets, strict=True)
    ]
    scores = {f"contrast_{group}": float(np.mean(values)) for group, values in found.items()}
    scores |= {"nrmse_lesions": errors[0], "nrmse_same_place": errors[1]}
    return scores | {"contrast": float(np.mean([scores[f"contrast_{diameter}mm"] for diameter in LESIONS_MM]))}
