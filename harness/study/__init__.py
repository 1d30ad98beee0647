"""From what is asked for to records: the plan of a study, and its runs."""
