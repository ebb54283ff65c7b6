"""Ray groups: where ranks are placed, how verbs reach them, and how their failure is noticed."""
