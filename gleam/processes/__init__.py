"""Everything about several processes: who works on a run, how they start, and what happens when one of them dies.

- `team`: the processes of one run, under torchrun or started here, and what they exchange.
- `launching`: new processes on this machine, as torchrun would start them.
- `watching`: heartbeats; a process ends when another one has failed.
- `allocator`: memory that a training step has freed stays with the process.
"""

from gleam.processes.allocator import keep_freed_memory
from gleam.processes.launching import launch
from gleam.processes.team import ALONE, Team, TeamError, join

__all__ = ["ALONE", "Team", "TeamError", "join", "keep_freed_memory", "launch"]
