"""Reports for people: lines on the terminal, plots and HTML pages."""
