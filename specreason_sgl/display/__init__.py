"""Views of a trace, a report and a calibration: terminal, HTML page, notebook, pictures."""
