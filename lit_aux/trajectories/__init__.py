"""Why multi-task training helped or hurt: trajectories of runs compared, task by task."""
