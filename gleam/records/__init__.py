"""Records of measured runs, as JSON, and what the book makes of them.

- `storage`: a record, its file, and the environment of a run. `schema`: the form of the file.
- `recording`: makes records of what was just trained or measured.
- `archive`: archived full-scale runs, and complete runs of earlier builds. `weights`: weights of runs beside their
  records, each with a card of `cards`.
- `tables`: the paper's numbers, the archived full-scale run and this build's own, in one table. `scores`: how scores
  are written.
- `comparisons`: methods compared in words. `intervals`: differences with intervals, and the rules for verdicts.
- `claims`: what the paper says. `scoreboard`: its number, ours and the verdict, claim by claim.
- `gaps`: methods beside end-to-end training with the same loss, in quality, activations and time. `gap_reports`: the
  same as tables and sentences. `conditions`: under several conditions, of which some may lack methods.
- `seeds`: archived trainings with several seeds, two methods compared over all of them.
- `subjects`: the folds of a cross-validation as one, and intervals over subjects. `shifts`: comparisons under several
  shifts.
- `costs`: tables of what training steps cost, of the rates they reach, and of number formats.
- `summaries`: what chapters say of data, methods, costs, failed inversions and comparisons in groups.
- `build`: what a chapter does with an experiment: train, score, report. `untrained`: its rows without training.
- `figures` (with `pictures`, `cost_figures` and `canvas`): what chapters draw. `widgets`: sliders and live controls.
- `measures`: the ratios that `python -m gleam.records results` prints.
- `command`: the command `gleam`. `outputs`: the files it writes, NIfTI or HDF5.

Everything a table, a figure or a sentence of the book says about a run comes from here.
"""

from gleam.records.archive import archived, finished
from gleam.records.build import Build, Trained
from gleam.records.comparisons import baseline_note, compare
from gleam.records.conditions import condition_gaps, conditions_report, gap_texts, load_conditions
from gleam.records.costs import archived_steps, cost_report, formats_table, work_table
from gleam.records.gap_reports import (
    checkpointing_report,
    checkpointing_times,
    curve_in_seconds,
    gap_report,
    goal_text,
    step_text,
    trainings_report,
)
from gleam.records.gaps import (
    gap_table,
    gap_text,
    gaps,
    share_of_activations,
    share_of_time,
    still_gained,
    times_as_long,
)
from gleam.records.intervals import SMALLEST, Difference, difference
from gleam.records.recording import evaluate_all, record
from gleam.records.schema import SCHEMA
from gleam.records.scores import METRICS, MISSING
from gleam.records.seeds import seeds_text
from gleam.records.shifts import (
    lesion_report,
    load_shifts,
    shift_gaps,
    shift_report,
    shift_scores,
    shift_table,
    shift_verdicts,
    shift_words,
)
from gleam.records.storage import Record, environment, half_width, load, load_experiment, save, slug
from gleam.records.subjects import (
    by_subject,
    compare_subjects,
    complete_folds,
    cross_validation,
    difference_table,
    differences_report,
    folds_report,
    groups_report,
    over_folds,
    paired,
    pooled,
    spread_text,
)
from gleam.records.summaries import (
    compare_groups,
    comparison_report,
    cost_text,
    count_changes,
    inversions_text,
    methods_text,
    splits_text,
)
from gleam.records.tables import (
    ARCHIVED,
    PAPER,
    THIS_BUILD,
    archive_caption,
    markdown_table,
    published,
    scores_report,
    scores_table,
    table,
    table_rows,
)
from gleam.records.untrained import Untrained
from gleam.training.identity import RESULTS_VERSION

__all__ = [
    "ARCHIVED",
    "METRICS",
    "MISSING",
    "PAPER",
    "RESULTS_VERSION",
    "SCHEMA",
    "SMALLEST",
    "THIS_BUILD",
    "Build",
    "Difference",
    "Record",
    "Trained",
    "Untrained",
    "archive_caption",
    "archived",
    "archived_steps",
    "baseline_note",
    "by_subject",
    "checkpointing_report",
    "checkpointing_times",
    "compare",
    "compare_groups",
    "compare_subjects",
    "comparison_report",
    "complete_folds",
    "condition_gaps",
    "conditions_report",
    "cost_report",
    "cost_text",
    "count_changes",
    "cross_validation",
    "curve_in_seconds",
    "difference",
    "difference_table",
    "differences_report",
    "environment",
    "evaluate_all",
    "finished",
    "folds_report",
    "formats_table",
    "gap_report",
    "gap_table",
    "gap_text",
    "gap_texts",
    "gaps",
    "goal_text",
    "groups_report",
    "half_width",
    "inversions_text",
    "lesion_report",
    "load",
    "load_conditions",
    "load_experiment",
    "load_shifts",
    "markdown_table",
    "methods_text",
    "over_folds",
    "paired",
    "pooled",
    "published",
    "record",
    "save",
    "scores_report",
    "scores_table",
    "seeds_text",
    "share_of_activations",
    "share_of_time",
    "shift_gaps",
    "shift_report",
    "shift_scores",
    "shift_table",
    "shift_verdicts",
    "shift_words",
    "slug",
    "splits_text",
    "spread_text",
    "step_text",
    "still_gained",
    "table",
    "table_rows",
    "times_as_long",
    "trainings_report",
    "work_table",
]
