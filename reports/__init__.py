"""What does a person look at? Sheets, curves and pages, made of plain arrays and numbers."""
