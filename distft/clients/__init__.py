"""Groups as the controller asks them: a method a verb, typed both ways. Nothing else names a verb."""
