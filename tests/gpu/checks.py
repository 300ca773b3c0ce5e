"""What a device computes, beside the CPU and beside itself in another way, and how far the two may be apart."""

from dataclasses import dataclass
from functools import partial

from gpu import probes
from gpu.probes import relative_error

from gleam import Checkpointed, EndToEnd, Fast, Greedy, Invertible, Offloaded, ParallelGreedy
from gleam.networks.denoisers import PlainCNN, ResidualCNN

STRATEGIES = {
    "End-to-end": EndToEnd(), "Checkpointing": Checkpointed(), "Offloading": Offloaded(), "MEL": Invertible(2),
    "GLEAM": Greedy(3), "GLEAM with checkpoints": Greedy(2, within=Checkpointed()),
}  # fmt: skip
NETWORKS = "PGD", "MoDL", "PGD, 2D + time"
ROUNDING = 1e-4  # of fp32, in sums as long as these; TF32 would leave ten times as much


@dataclass(frozen=True)
class Check:
    """``error(at)``: a relative error, which has to be at most ``bound``; ``compiles``: needs torch.compile."""

    error: object
    bound: float = ROUNDING
    compiles: bool = False


def checks():
    """All checks by name, the most elementary ones first."""
    return _of_parts() | _of_steps() | _of_ways() | _of_precision() | _of_strategies()


def _beside_cpu(probe, *arguments):
    return lambda at: relative_error(probe(at, *arguments), probe(at.on_cpu, *arguments))


def _of_parts():
    kinds = "2D", "2D + time"
    found = {}
    for kind in kinds:
        for name in ("normal", "forward", "adjoint"):
            found[f"{name}, {kind}"] = Check(_beside_cpu(probes.operator, kind, name))
        found[f"conjugate gradients, {kind}"] = Check(_beside_cpu(probes.solution, kind))
        for make in (ResidualCNN, PlainCNN):
            found[f"{make.__name__}, {kind}"] = Check(_beside_cpu(probes.cnn, kind, make))
    others = probes.update, probes.scores, probes.reconstruction, probes.batches
    return found | {probe.__name__: Check(_beside_cpu(probe)) for probe in others}


def _of_steps():
    """One training step of every strategy, losses and gradients."""
    found = {}
    for name, strategy in STRATEGIES.items():
        if name != "MEL":  # PGD has no inverse
            found[f"step of {name}, PGD"] = Check(_beside_cpu(probes.gradients, strategy, "PGD"))
        # conjugate gradients stop where they have converged, one step sooner or later: 3e-4 between fp32 and fp64
        found[f"step of {name}, MoDL"] = Check(_beside_cpu(probes.gradients, strategy), 2e-3)
    found["step of GLEAM, MoDL, a contraction"] = Check(
        _beside_cpu(probes.gradients, Greedy(3), "MoDL, a contraction"), 2e-3
    )
    return found | {"step of GLEAM, PGD, 2D + time": Check(_beside_cpu(probes.gradients, Greedy(3), NETWORKS[2]))}


def _of_ways():
    """The same step in another way: as the replay of a graph, with padded channels, compiled."""
    captured = {
        ("End-to-end", "PGD"): EndToEnd(), ("Checkpointing", "PGD"): Checkpointed(), ("GLEAM", "PGD"): Greedy(3),
        ("GLEAM", "MoDL"): Greedy(3), ("GLEAM", "MoDL, a contraction"): Greedy(3),
    }  # fmt: skip
    found = {
        f"replayed, {name}, {network}": Check(partial(_replayed, strategy=strategy, name=network))
        for (name, network), strategy in captured.items()
    }
    found["replayed, weights"] = Check(partial(_replayed, part=1), 1e-3)
    found["stopped and resumed, weights"] = Check(_stopped)
    for name in ("PGD", "PGD, 2D + time"):
        found[f"replayed, bf16, {name}"] = Check(partial(_replayed, precision="bf16", name=name), 2e-3)
    for name in NETWORKS:
        padded = partial(_same, ways=[(Greedy(3), {"channel_multiple": 8}), (Greedy(3), {})], name=name)
        found[f"padded channels, {name}"] = Check(padded)
    compiled = partial(_same, ways=[(Greedy(3), {"compiled": True}), (Greedy(3), {})], name="PGD")
    return found | {"compiled": Check(compiled, compiles=True)}


def _replayed(at, strategy=None, name="PGD", precision="fp32", part=0):
    fast = Fast(strategy or Greedy(3), precision)
    return relative_error(probes.training(at, fast, name)[part], probes.training(at, fast.eager, name)[part])


def _stopped(at):
    return relative_error(probes.stopped(at, max_seconds=1e-3), probes.stopped(at, max_seconds=None))


def _same(at, ways, name="MoDL"):
    one, other = (probes.gradients(at, strategy, name, **options) for strategy, options in ways)
    return relative_error(one, other)


def _of_precision():
    return {
        f"{precision} beside fp32, losses, {name}": Check(partial(_rounded, precision=precision, name=name), bound)
        for precision, bound in {"tf32": 2e-3, "bf16": 1e-2}.items()
        for name in NETWORKS
    }


def _rounded(at, precision, name):
    fasts = [Fast(Greedy(3), p, captured=False, channel_multiple=1) for p in (precision, "fp32")]
    return relative_error(*(probes.training(at, fast, name)[0] for fast in fasts))


def _of_strategies():
    """Identities between strategies, on the device alone."""
    ways = {
        "GLEAM of one module is end-to-end": [(Greedy(1), {}), (EndToEnd(), {})],
        "offloaded is end-to-end": [(Offloaded(), {}), (EndToEnd(), {})],
        "P-GLEAM in one process is GLEAM": [(ParallelGreedy(3), {}), (Greedy(3), {})],
    }
    found = {name: Check(partial(_same, ways=way)) for name, way in ways.items()}
    found["first module is the shallow network"] = Check(_deeper)
    return found | {"GLEAM spread over this device and the CPU": Check(_spread, 2e-3)}


def _deeper(at):
    """The first module of GLEAM's deeper network is the end-to-end network, as in Table III."""
    first = probes.gradients(at, Greedy(2), network=at.network("PGD", 6))
    whole = probes.gradients(at, EndToEnd(), network=at.network("PGD", 3))
    return relative_error([first[0][:1], first[1]], whole)


def _spread(at):
    return _same(at, [(Greedy(3), {"devices": [at.device, "cpu"]}), (Greedy(3), {})])
