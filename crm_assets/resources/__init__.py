"""One external system per file. A resource holds a plain object; Dagster's side of it is `defs/resources.py`."""
