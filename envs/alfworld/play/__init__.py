"""Playing a household: rules, state, goals, text."""
