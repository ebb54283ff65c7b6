"""Ray where runs need it: the private cluster of a run, and jobs and nodes of one that runs already."""
