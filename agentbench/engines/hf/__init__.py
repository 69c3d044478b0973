"""The default engine: continuous batching over kept caches, in this process."""
