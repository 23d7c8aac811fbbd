"""Pages of the console, a file for each noun. They compose; writing is done by the rooms below."""
