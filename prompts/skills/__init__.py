"""Skill texts, one file per environment: what a teacher may read beside the student's prompt."""
