"""Reports: statistics, tables and the HTML page of a run folder."""
