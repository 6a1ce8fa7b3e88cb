"""The redirect rules of a pod: planned as data, applied atomically, verified in order. Standard library only."""
