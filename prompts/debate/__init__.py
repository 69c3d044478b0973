"""What teachers are told when they debate, read by `agentbench.trainers.teachers.debate`."""
