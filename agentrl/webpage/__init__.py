"""The page about runs: its data, its scripts and styles, and `report.html`."""
