"""Landing: what lies in the drop folder, and the rules in force for the run."""
