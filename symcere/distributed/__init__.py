"""Ray: training on several workers, sweeps, encoding on many nodes, jobs. The only room that imports `ray`."""
