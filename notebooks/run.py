"""Make the book: phantoms where real data are missing, chapters that are stale, then the pages.

Called by `make reproduce`; `python notebooks/run.py --help` lists what it takes. Exit codes: 0 all done, 1 a chapter
or the book failed (everything that finished is kept), 2 an argument makes no sense, 130 interrupted.
"""

import argparse
import signal
import sys
from pathlib import Path

from driver import book, chapters, data, execute, files, pages, profiles, staleness, student

ROOT = Path(__file__).resolve().parent.parent


def parse(argv):
    """Read the command line; an empty value means "not given", so that make can pass its variables through."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "what", nargs="?", default="all", choices=["all", "data", "notebooks", "book", "archive", "student"]
    )
    parser.add_argument(
        "--profile", default="", help="quick, standard or paper; default: paper with a GPU and the real data"
    )
    parser.add_argument("--seed", default="", help="of weights, order, masks and phantoms; default: the profile's own")
    parser.add_argument("--data", default="", help="folder with real data (data/README.md); default: data")
    parser.add_argument("--chapters", default="", help='some chapters, for example "01 04_mridata"; default: all')
    parser.add_argument("--jobs", default="", help="chapters at a time; default: the number of cores, 1 on a GPU")
    return parser.parse_args(argv)


def plan(arguments, root):
    """Turn the arguments into (profile, chapters, data folder, jobs), or raise ValueError with one sentence."""
    selected = chapters.select(chapters.discover(root), arguments.chapters)
    data_dir = Path(arguments.data).expanduser().resolve() if arguments.data else root / "data"
    needed = data.needed_by(selected)
    if arguments.data:
        data.check_folder(arguments.data, data_dir, needed if arguments.what != "book" else [])
    if arguments.jobs and not (arguments.jobs.isdecimal() and int(arguments.jobs) > 0):
        raise ValueError(f"JOBS must be a positive whole number, not '{arguments.jobs}'.")
    profile, why = choose_profile(arguments, needed, data_dir, root)
    print(f"Profile: {profile} ({why})", flush=True)
    return profile, selected, data_dir, int(arguments.jobs or execute.n_cores())


def choose_profile(arguments, needed, data_dir, root):
    """Return (profile, why); pages alone get the profile of the published chapters, whose records they show."""
    made_with = staleness.published_profiles(chapters.discover(root))
    if arguments.what == "book" and made_with and not arguments.profile:
        if len(made_with) > 1:
            raise ValueError(f"The chapters were made with the profiles {' and '.join(made_with)}: give PROFILE.")
        return made_with[0], "the published chapters'"
    profile, why = data.choose_profile(arguments.profile, needed, data_dir, root)
    if profile == "paper" and arguments.what in ("all", "notebooks") and not data.has_gpu():
        raise ValueError("PROFILE=paper needs a GPU, and there is none here: PROFILE=quick runs without.")
    return profile, why


def make(arguments, root):
    """Do what the arguments ask for; True if everything asked for is there at the end."""
    if arguments.what == "archive":
        return archive(arguments, root)
    if arguments.what == "student":
        return student.write(root)
    profile, selected, data_dir, jobs = plan(arguments, root)
    build = build_name(profile, arguments.seed)
    if arguments.what != "book":
        settings = profiles.with_seed(profiles.read_settings(root, profile), arguments.seed)
        for folder in ("_work", f"_work/{build}", "book/chapters"):
            files.check_writable(root / folder, root)
        if arguments.what == "data":
            print(data.report(selected, data_dir, root), flush=True)
        given = {chapter.name: profiles.check_parameters(chapter, settings) for chapter in selected}
        folders = data.provide(data.needed_by(selected), data_dir, build, settings["phantoms"], root, jobs)
        if arguments.what == "data":
            return True
        tasks = stale_tasks(selected, given, folders, profile, build, root, jobs)
        on_gpu = any(task.parameters.get("device", "cpu") != "cpu" for task in tasks)
        at_once = 1 if on_gpu and not arguments.jobs else min(jobs, max(1, len(tasks)))
        for task in tasks:
            if "n_jobs" in task.parameters:  # a chapter's share: more processes than cores slow each other down
                task.parameters["n_jobs"] = max(1, min(task.parameters["n_jobs"], jobs // at_once))
        timed = [task for task in tasks if "n_processes" in task.chapter.declared]  # they need the cores to themselves
        others = [task for task in tasks if task not in timed]
        done = [execute.run_all(some, build, root, n) for some, n in ((others, at_once), (timed, 1)) if some]
        if not all(done):
            return False
    if arguments.what == "notebooks":
        return True
    pages.fill_in_missing(chapters.discover(root))
    return book.build(build, root)


def build_name(profile, seed):
    """Name of the folders of a build: its profile and, if one was asked for, its seed."""
    if seed and not seed.isdecimal():
        raise ValueError(f"SEED must be a whole number of at least 0, not '{seed}'.")
    return f"{profile}-seed{int(seed)}" if seed and int(seed) else profile


def archive(arguments, root):
    """Copy the records of a build, and weights of its runs, to results/, where tables and `gleam.load` find them."""
    from gleam.records.archive import archive  # here and not above: they bring torch along
    from gleam.records.weights import archive_weights

    if arguments.profile not in data.PROFILES:
        raise ValueError(f"To archive, say of which profile: PROFILE={' or '.join(data.PROFILES)}, and maybe SEED=1.")
    build, seed = build_name(arguments.profile, arguments.seed), int(arguments.seed or 0)
    folder, n = archive(root / "_work" / build / "records", root / "results", profile=arguments.profile, seed=seed)
    said = archive_weights(folder, root / "_work" / build / "runs")
    n_weights = sum(not sentence for sentence in said.values())
    print(f"{n} records of {build} are in {files.shown(folder, root)}, weights beside {n_weights} of them", flush=True)
    for sentence in filter(None, said.values()):
        print(f"Without weights: {sentence}", flush=True)
    return True


def stale_tasks(selected, given, folders, profile, build, root, jobs):
    """The chapters that have to run, after a line about each of those selected."""
    tasks = []
    for chapter in selected:
        supplied = {"profile": profile, "work_dir": f"../_work/{build}"}
        supplied |= {name: data.relative(folder, build, root) for name, folder in folders.items()}
        parameters, n_jobs = profiles.parameters_for(chapter, given[chapter.name], supplied, jobs)
        key = staleness.current_key(chapter, parameters, build, folders, root)
        stale = staleness.why_stale(chapter, key)
        if not stale and staleness.lacks_records(chapter, build, root):
            stale = "stale (its records are gone)"
        print(f"{chapter.name}: {f'{stale}, running' if stale else 'up to date'}", flush=True)
        if stale:
            tasks.append(execute.Task(chapter, parameters | n_jobs, key))
    return tasks


def main(argv=None, root=ROOT):
    """Run the driver and return its exit code."""
    arguments = parse(argv)
    try:
        return 0 if make(arguments, root) else 1
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        named = error.filename is not None and error.strerror
        sentence = f"{files.shown(str(error.filename), root)}: {error.strerror}." if named else error
        print(sentence, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted: what had finished is kept, and the next run goes on from there.", file=sys.stderr)
        return 130


def _interrupt(*_):
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(main())
