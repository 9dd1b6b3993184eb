"""What a study has found: tables with intervals, answers, and one page."""
