"""Two sets of results, row by row: ratios with intervals, and rules that a change must keep."""
