"""What a training step costs: the limits of the device, the way to the fast step, every method at its own size."""

from dataclasses import asdict
from functools import partial

import peers
import torch
from compare import Row, end_to_end_step, peak_bytes

from full_scale.session import Failed, Job, sentence
from gleam import Checkpointed, Fast, cost, execution
from gleam.cost import roofline
from gleam.cost.step import Step
from gleam.processes.allocator import keep_freed_memory
from gleam.records.measures import fastest_bf16

OPTIONS = ("precision", "compiled", "captured", "channel_multiple")  # of gleam.Fast
# None: the multiple of channels that made the fastest of the rungs before
RUNGS = {
    "Plain PyTorch, fp32": ("fp32", False, False, 1),
    "Plain PyTorch, tf32": ("tf32", False, False, 1),
    "fp32": ("fp32", False, False, 1),
    "tf32": ("tf32", False, False, 1),
    "bf16": ("bf16", False, False, 1),
    "bf16, padded": ("bf16", False, False, 8),
    "bf16, padded to 32": ("bf16", False, False, 32),
    "bf16, compiled": ("bf16", True, False, None),
    "bf16, captured": ("bf16", False, True, None),
    "bf16, compiled, captured": ("bf16", True, True, None),
}
EXACT = dict(zip(OPTIONS, RUNGS["fp32"], strict=True))
# most valuable first
ORDER = [
    "limits", "ladder_pgd2d", "cost_pgd2d_fp32", "cost_modl2d_fp32", "ladder_modl2d", "cost_modl3d_fp32",
    "cost_pgd2d_fast", "cost_modl2d_fast", "cost_pgd2d_brain_fp32", "cost_pgd3d_fp32", "cost_pgd2d_brain_fast",
    "cost_pgd3d_fast", "cost_modl3d_fast",
]  # fmt: skip
WITH_INVERSION = "cost_modl2d_fp32"  # where MEL is measured as well
N_ROUNDS = 15  # in which each step is timed
SECONDS = {"limits": 15, "ladder": 240, "cost": 90, WITH_INVERSION: 150}


def jobs(session):
    """A job for each experiment of costs, unless each method has a record, or another one says that it does not run."""
    for experiment in ORDER:
        kind, _, rest = experiment.partition("_")
        case = session.profile.case(rest.removesuffix("_fp32").removesuffix("_fast")) if rest else None
        measure = {"limits": _limits, "ladder": _ladder, "cost": _costs}[kind]
        methods = {"limits": ["Device"], "ladder": _rungs(session)}.get(kind) or _methods(experiment, case)
        found = {method: session.find(experiment, method) for method in methods}
        excused = {name for record in found.values() if record for name in record.settings.get("does_not_run", ())}
        if session.wants(experiment) and any(not record and name not in excused for name, record in found.items()):
            yield Job(experiment, SECONDS.get(experiment, SECONDS[kind]), partial(measure, session, experiment, case))


def _limits(session, *_):
    small = {"seconds": 0.02, "n": 64, "n_bytes": 2**16} if session.profile.is_tiny else {}
    found = roofline.limits(session.device, **small)
    session.save("limits", "Device", measures=found)
    return ", ".join(f"{name} {value:.3g}" for name, value in found.items())


def _save(session, experiment, name, found, case, network, fast, batch, strategy, settings):
    """Save the cost of a step with the work that it does."""
    settings = settings | {option: getattr(fast, option) for option in OPTIONS} | {"strategy": strategy}
    settings |= session.profile.describe(case) | {"n_iterations": len(network.iterations)}
    try:
        work = roofline.work(network, fast, batch)
        measures = {"flops_per_step": work.flops, "bytes_per_step": work.bytes}
    except RuntimeError as error:  # torch cannot count every step; what the step costs is known all the same
        measures, settings["work_not_counted"] = {}, sentence(error)
    session.save(experiment, name, cost=found, network=network, settings=settings, measures=measures)


# --- every method


def _methods(experiment, case):
    """Dict of method to (number of iterations, strategy), as in the paper's tables."""
    own = {name: (method.n_iterations, method.strategy) for name, method in case.methods.items()}
    own.setdefault("Checkpointing", (own["End-to-end"][0], Checkpointed()))
    wanted = ("End-to-end", "Checkpointing", *(["MEL"] if experiment == WITH_INVERSION else []), "GLEAM")
    return {name: own[name] for name in wanted}


def _costs(session, experiment, case):
    """Cost and work of all methods, all timed in turn."""
    options = EXACT if experiment.endswith("fp32") else fastest(session, experiment)
    own = _methods(experiment, case)
    methods = {name: (case.make_network(n), Fast(strategy, **options)) for name, (n, strategy) in own.items()}
    batch = session.profile.batch(case).to(session.device)
    costs = cost.measure(methods, batch, n_rounds=2 if session.profile.is_tiny else N_ROUNDS, device=session.device)
    for name, (network, fast) in methods.items():
        settings = fast.diagnostics()  # of memory-efficient learning: how many inversions failed
        _save(session, experiment, name, costs[name], case, network, fast, batch, repr(fast.strategy), settings)
    return ", ".join(f"{name} {c.seconds_per_step:.3g} s {c.peak_bytes / 1e9:.3g} GB" for name, c in costs.items())


def fastest(session, experiment):
    """Options of :class:`gleam.Fast` of the fastest bf16 step of the ladder nearest to an experiment of costs.

    Without such a record, or in 3D, where no ladder was measured, the defaults of :class:`gleam.Fast`.
    """
    default = {name: value for name, value in asdict(Fast(None, "bf16")).items() if name in OPTIONS}
    ladder = next((f"ladder_{case}" for case in ("pgd2d", "modl2d") if case in experiment), "none")
    best = fastest_bf16(filter(None, (session.find(ladder, name) for name in RUNGS)))
    return {name: best.settings[name] for name in OPTIONS} if best else default


# --- the ladder


def _rungs(session):
    """Names of :data:`RUNGS` that are tried here; compiling takes too long for a dry run."""
    return [name for name in RUNGS if not (session.profile.is_tiny and "compiled" in name)]


def _ladder(session, experiment, case):
    """All rungs timed in turn; one that does not run, say without a C compiler, is left out, and said so at the end."""
    keep_freed_memory()
    batch, steps, rest, reasons = session.profile.batch(case).to(session.device), {}, {}, {}
    for name in _rungs(session):
        options = dict(zip(OPTIONS, RUNGS[name], strict=True))
        try:
            options["channel_multiple"] = options["channel_multiple"] or _best_multiple(session, steps)
            make = _plain if name.startswith("Plain") else _fast
            steps[name], *rest[name] = make(session, case, batch, options)
        except Exception as error:
            reasons[name] = sentence(error)
    seconds = cost.paired(steps, n_rounds=2 if session.profile.is_tiny else N_ROUNDS, device=session.device)
    for name, (split, network, fast, strategy) in rest.items():
        found, settings = cost.Cost.measured(seconds[name], split, session.device), {"does_not_run": reasons}
        _save(session, experiment, name, found, case, network, fast, batch, strategy, settings)
    words = ", ".join(f"{name} {min(times):.3g} s" for name, times in seconds.items())
    if reasons:
        raise Failed(f"{words}; not {'; '.join(f'{name}: {reason}' for name, reason in reasons.items())}")
    return words


def _fast(session, case, batch, options):
    """GLEAM's step with `options` of :class:`gleam.Fast`."""
    method = case.methods["GLEAM"]
    network, fast = case.make_network(method.n_iterations), Fast(method.strategy, **options)
    step = Step(network, fast, batch, device=session.device)
    split = step.peak_split()
    step.settle()
    return step, split, network, fast, repr(fast.strategy)


def _plain(session, case, batch, options):
    """A step as one writes it without GLEAM: plain modules, NCHW, operator by operator, torch's default Adam.

    Only the number format of convolutions and cuDNN's search for the fastest algorithm are set, as in all other rungs.
    """
    method = case.methods["End-to-end"]
    network = case.make_network(method.n_iterations).to(session.device)
    module, image = peers.plain(network, batch)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-5)

    def step():
        with execution.using(options["precision"], device_type=torch.device(session.device).type):
            end_to_end_step(image, batch.target, optimizer)

    split = {"not split": peak_bytes(Row(step, [module, [optimizer]]), batch, session.device)}
    return step, split, network, Fast(method.strategy, **options), "plain PyTorch, end to end"


def _best_multiple(session, steps):
    """The multiple of channels of the fastest of the ordinary bf16 steps; without any that of :class:`gleam.Fast`."""
    multiples = {name: RUNGS[name][-1] for name in steps if name.startswith("bf16") and RUNGS[name][-1]}
    if not multiples:
        return Fast(None).channel_multiple
    seconds = cost.paired({name: steps[name] for name in multiples}, n_rounds=5, device=session.device)
    return multiples[min(seconds, key=lambda name: sum(seconds[name]))]
