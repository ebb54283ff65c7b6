"""What a run is: the recipe, its rules and how it is read. No torch: works on a login node in well under a second."""
