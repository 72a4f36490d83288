"""The conversion graph: plan, run, cache, judge."""
