"""What a training step costs: the limits of the device, the way to the fast step, every method at the paper's sizes."""

from dataclasses import asdict, dataclass
from functools import partial

import peers
import torch
from compare import Row, end_to_end_step, peak_bytes

from full_scale.jobs import Failed, Job, sentence
from gleam import Fast, cost, execution
from gleam.cost import roofline
from gleam.cost.step import Step
from gleam.processes.allocator import keep_freed_memory
from gleam.records.measures import fastest_bf16

PLAIN = {"Plain PyTorch, fp32": "fp32", "Plain PyTorch, tf32": "tf32"}
RUNGS = {  # options of gleam.Fast; None: the multiple of channels that made the fastest of the rungs before
    "fp32": ("fp32", False, False, 1), "tf32": ("tf32", False, False, 1), "bf16": ("bf16", False, False, 1),
    "bf16, padded": ("bf16", False, False, 8), "bf16, padded to 32": ("bf16", False, False, 32),
    "bf16, compiled": ("bf16", True, False, None), "bf16, captured": ("bf16", False, True, None),
    "bf16, compiled, captured": ("bf16", True, True, None),
}  # fmt: skip
EXACT = {"precision": "fp32", "compiled": False, "captured": False, "channel_multiple": 1}
LADDERS = {"ladder_pgd2d": "pgd2d", "ladder_modl2d": "modl2d"}
# most valuable first; where MEL is measured as well
ORDER = [
    "limits", "ladder_pgd2d", "cost_pgd2d_fp32", "cost_modl2d_fp32", "ladder_modl2d", "cost_modl3d_fp32",
    "cost_pgd2d_fast", "cost_modl2d_fast", "cost_pgd2d_brain_fp32", "cost_pgd3d_fp32", "cost_pgd2d_brain_fast",
    "cost_pgd3d_fast", "cost_modl3d_fast",
]  # fmt: skip
WITH_INVERSION = ("cost_modl2d_fp32",)


def jobs(setting):
    """One job for each experiment of costs."""
    return [_job(setting, experiment) for experiment in ORDER]


def _job(setting, experiment):
    if experiment == "limits":
        run, methods, kind = _limits, ["Device"], "limits"
    elif experiment in LADDERS:
        run, methods, kind = partial(_ladder, experiment=experiment), [*PLAIN, *_rungs(setting)], "ladder"
    else:
        case = setting.sizes.cases[_case_name(experiment)]
        with_inversion = experiment in WITH_INVERSION
        methods, kind = [*case.methods(with_inversion=with_inversion)], "cost with MEL" if with_inversion else "cost"
        run = partial(_costs, experiment=experiment, case=case)
    is_done = partial(_are_there, setting, experiment, methods)
    return Job(experiment, setting.sizes.seconds.get(kind, 0), partial(run, setting), is_done)


def _are_there(setting, experiment, methods):
    """Whether all methods have a record, or another one says that they do not run here."""
    found = [setting.find(experiment, method) for method in methods]
    does_not_run = {name for record in found if record for name in record.settings.get("does_not_run", ())}
    return all(record or name in does_not_run for name, record in zip(methods, found, strict=True))


def _case_name(experiment):
    return experiment.removeprefix("cost_").rpartition("_")[0]


def _limits(setting):
    found = roofline.limits(setting.device, **setting.sizes.limits)
    setting.save("limits", "Device", measures=found)
    return ", ".join(f"{name} {value:.3g}" for name, value in found.items())


# --- every method


def _costs(setting, experiment, case):
    """Cost and work of all methods, all timed in turn."""
    is_exact = experiment.endswith("fp32")
    options = EXACT if is_exact else fastest(setting, _case_name(experiment))
    methods = {
        name: (case.network(n), Fast(strategy, **options))
        for name, (n, strategy) in case.methods(with_inversion=experiment in WITH_INVERSION).items()
    }
    batch = case.batch(setting.device)
    costs = cost.measure(methods, batch, n_rounds=setting.sizes.n_rounds, device=setting.device)
    for name, (network, fast) in methods.items():
        found = fast.diagnostics()  # of memory-efficient learning: how many inversions failed
        settings = case.describe() | options | found | _of_strategy(network, fast.strategy)
        _save(setting, experiment, name, costs[name], network, fast, batch, settings)
    return ", ".join(f"{name} {c.seconds_per_step:.3g} s {c.peak_bytes / 1e9:.3g} GB" for name, c in costs.items())


def _of_strategy(network, strategy):
    return {"n_iterations": len(network.iterations), "strategy": repr(strategy)}


def _save(setting, experiment, name, found, network, fast, batch, settings):
    try:
        work = roofline.work(network, fast, batch)
        measures = {"flops_per_step": work.flops, "bytes_per_step": work.bytes}
    except RuntimeError as error:  # torch cannot count every step; what the step costs is known all the same
        measures, settings = {}, settings | {"work_not_counted": sentence(error)}
    setting.save(experiment, name, cost=found, network=network, settings=settings, measures=measures)


# --- the ladder


@dataclass
class Rung:
    """A way to take the step: ``step()`` takes it, ``split`` is its peak, ``fast`` counts its work."""

    step: object
    split: dict
    network: object
    fast: Fast
    settings: dict


def _rungs(setting):
    return {name: options for name, options in RUNGS.items() if setting.sizes.compiled or not options[1]}


def _ladder(setting, experiment):
    """All rungs timed in turn; one that does not run is left out, and said so at the end."""
    keep_freed_memory()
    case = setting.sizes.cases[LADDERS[experiment]]
    batch, reasons = case.batch(setting.device), {}
    rungs, build = {}, partial(_build, setting, case, batch)
    for name, precision in PLAIN.items():
        _try(rungs, reasons, name, partial(_plain, setting, case, batch, precision))
    for name, (precision, compiled, captured, multiple) in _rungs(setting).items():
        multiple = multiple or _best_multiple(setting, rungs)
        _try(rungs, reasons, name, partial(build, precision, compiled, captured, multiple))
    seconds = cost.paired(
        {name: rung.step for name, rung in rungs.items()}, n_rounds=setting.sizes.n_rounds, device=setting.device
    )
    for name, rung in rungs.items():
        found = cost.Cost.measured(seconds[name], rung.split, setting.device)
        settings = rung.settings | {"does_not_run": reasons}
        _save(setting, experiment, name, found, rung.network, rung.fast, batch, settings)
    words = ", ".join(f"{name} {min(times):.3g} s" for name, times in seconds.items())
    if reasons:
        raise Failed(f"{words}; not {'; '.join(f'{name}: {reason}' for name, reason in reasons.items())}")
    return words


def _try(rungs, reasons, name, build):
    try:
        rungs[name] = build()
    except Exception as error:  # without a C compiler, say: the other rungs are measured
        reasons[name] = sentence(error)


def _build(setting, case, batch, precision, compiled, captured, multiple):
    options = {"precision": precision, "compiled": compiled, "captured": captured, "channel_multiple": multiple}
    network, fast = case.network(case.deep), Fast(case.greedy, **options)
    step = Step(network, fast, batch, device=setting.device)
    split = step.peak_split()
    step.settle()
    return Rung(step, split, network, fast, case.describe() | options | _of_strategy(network, fast.strategy))


def _best_multiple(setting, rungs):
    """The multiple of channels of the fastest of the ordinary bf16 steps; without any that of :class:`gleam.Fast`."""
    multiples = {name: RUNGS[name][3] for name in rungs if name.startswith("bf16") and RUNGS[name][3]}
    if not multiples:
        return Fast(None).channel_multiple
    seconds = cost.paired({name: rungs[name].step for name in multiples}, n_rounds=5, device=setting.device)
    return multiples[min(seconds, key=lambda name: sum(seconds[name]))]


def _plain(setting, case, batch, precision):
    """A step as one writes it without GLEAM: plain modules, NCHW, operator by operator, torch's default Adam.

    Only the number format of convolutions and cuDNN's search for the fastest algorithm are set, as in all other rungs.
    """
    network = case.network().to(setting.device)
    module, image = peers.plain(network, batch)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-5)

    def step():
        with execution.using(precision, device_type=torch.device(setting.device).type):
            end_to_end_step(image, batch.target, optimizer)

    peak = peak_bytes(Row(step, [module, [optimizer]]), batch, setting.device)
    options = EXACT | {"precision": precision}
    settings = case.describe() | options | {"n_iterations": case.shallow, "strategy": "plain PyTorch, end to end"}
    counted = Fast(case.methods()["End-to-end"][1], **options)
    return Rung(step, {"not split": peak}, network, counted, settings)


def fastest(setting, case):
    """Options of :class:`gleam.Fast` of the fastest bf16 rung of the ladder nearest to ``case``.

    Without such a record, or in 3D, where no ladder was measured, the defaults of :class:`gleam.Fast`.
    """
    default = asdict(Fast(None, "bf16"))
    del default["strategy"]
    experiment = {"pgd2d": "ladder_pgd2d", "pgd2d_brain": "ladder_pgd2d", "modl2d": "ladder_modl2d"}.get(case)
    found = [setting.find(experiment, name) for name in RUNGS] if experiment else []
    best = fastest_bf16([record for record in found if record])
    return {name: best.settings[name] for name in default} if best else default
