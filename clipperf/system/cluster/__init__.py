"""Work on a Ray cluster: what every command with ``--ray`` shares.

- `joining`: a cluster joined for a ``with`` block, or a clear reason why not; `head`: whether its
  head answers, before and while work goes on,
- `machines`: what its machines are, and whether they can work together; `roll`: those that are
  there, `waiting`: what is waited for, in words,
- `tasks`: what a task is, `running`: tasks on the machines, one alone on each or several beside
  each other, done again where a machine or a process is lost; `starting`: in which processes,
  `remote`: what runs there and sends news home, `losses`: what Ray's errors mean,
- `shared`: bytes and folders that cross between machines through a path or URL, with checksums;
  `owning`: what of it is one command's and goes with it; `seeing`: whether they see it.
"""
