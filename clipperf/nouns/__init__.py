"""The nouns of clipperf: frozen records without I/O, each in the file of its subject.

Everything that crosses a process or file boundary is one of these; `serialize` turns them into
plain JSON values and back. What was not measured is None, never 0.
"""
