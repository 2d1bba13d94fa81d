"""What `hf-finetune check` says of the rows of a run.

check       read, measure and search the rows of a run
report      what was found, JSON-ready
contents    rejected lines, labels, languages, and splits too small for a score
terminal    the report in lines
page        the report as a page, with rows token by token
sarif       the report for tools that annotate files
"""
