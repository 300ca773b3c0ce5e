"""Several processes: which ones work on a run, how they start, and how they end when one of them fails.

- `team`: the processes of one run, started by torchrun or here, and their communication.
- `launching`: new processes on this machine, started in the same way as torchrun does.
- `reaching`: connections to where the processes of a run meet, or why there is none.
- `sending`: work as bytes, with the classes and functions of a notebook's cell in it.
- `pool`: independent calls of one function, spread over worker processes.
- `watching`: heartbeats; a process ends when another one has failed.
- `allocator`: memory that a training step has freed stays with the process.
"""

from gleam.processes.allocator import keep_freed_memory
from gleam.processes.launching import launch
from gleam.processes.pool import in_processes
from gleam.processes.team import ALONE, Team, TeamError, join

__all__ = ["ALONE", "Team", "TeamError", "in_processes", "join", "keep_freed_memory", "launch"]
