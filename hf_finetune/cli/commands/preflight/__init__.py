"""Commands that look before anything is trained.

new     files of rows -> a run file that runs as it stands
"""
