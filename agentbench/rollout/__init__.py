"""Episodes: one, many at a time, branched from chosen states, collected into the groups of a plan."""
