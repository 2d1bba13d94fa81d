"""HF05x to HF09x, of HF0xx (files, and rows that cannot be read): sources, tables, streams, corpora and the cache."""

from __future__ import annotations

from hf_finetune.codes.code import Code

SOURCES: dict[str, Code] = {
    # What a run file names, and what is taken of it.
    "HF050": Code(
        "a file of another kind than data.format reads",
        "error",
        "JSONL or a table that is read as plain text trains the model on braces and commas, and prose has no rows.",
        "set data.format to what the file holds, or name another file",
    ),
    "HF051": Code(
        "a file that is named twice",
        "error",
        "Its rows would count twice by accident, and be learned by heart sooner.",
        "name it once; `weight: 2.0` reads a file twice on purpose",
    ),
    "HF052": Code(
        "rejected lines are left out",
        "warning",
        "It was asked for (data.on_bad_line: skip). They may be a part that matters, such as all rows of one source.",
        "look at the reasons, all of which are in rejected_lines.jsonl in the run folder, and correct the lines",
    ),
    "HF053": Code(
        "a file that is refused for its rejected lines",
        "error",
        "Nothing is trained on a file that is wrong in every line, and nothing is written of one that is to be right "
        "in every line.",
        "correct the lines; data.on_bad_line: fail names each of them, and `--on-bad-line skip` leaves them out",
    ),
    "HF054": Code(
        "files in which no line is a JSON object",
        "error",
        "The first row decides which format the rows have, and there is none.",
        "write one object a line, as the files in data_templates/ have it",
    ),
    "HF055": Code(
        "a folder, a pattern or an address without a file of rows",
        "error",
        "A run on fewer files than were meant would look like any other.",
        "check the pattern, or name the files",
    ),
    "HF056": Code(
        "a link that leads out of its folder",
        "error",
        "A folder that comes from somebody else could name any file of this machine by a link: its text would be "
        "trained, and leave the machine with the model.",
        "put the file itself there, or name it in the run file",
    ),
    "HF057": Code(
        "files of a folder that are not read",
        "warning",
        "Of a folder, files of some endings are read: rows in the others are not trained.",
        "name these files too, or take them out of the folder",
    ),
    # Tables: what a line of JSON cannot have, since each of its values has a name.
    "HF060": Code(
        "a table whose first line does not name its columns",
        "error",
        "A title or a row in the first line would be taken for the names of the columns, and be no row any more.",
        "delete what stands above the names, or write a line of names above the rows, such as text,label",
    ),
    "HF061": Code(
        "a column that occurs twice",
        "error",
        "One of the two would be read, and nobody could say which.",
        "rename one of them",
    ),
    "HF062": Code(
        "a quote in a table that is not closed, or stands where it is text",
        "error",
        "What follows it, up to the next quote, would be one field, with whole rows in it.",
        "close it; a quote inside quotes is written twice, and nothing stands between the separator and a quote",
    ),
    "HF063": Code(
        "a row with more or fewer fields than the table has columns",
        "error",
        "A separator or a line break that is not in quotes moves every field behind it: a part of the text would "
        "become the label.",
        "put quotes around fields that hold a separator or a line break",
    ),
    "HF064": Code(
        "a row that repeats the header",
        "error",
        "It would be trained with the names of the columns as its text and its label.",
        "take it out; each of several files that were joined has brought one",
    ),
    "HF065": Code(
        "a table that has binary columns alone",
        "error",
        "JSON has no binary values, so that nothing is left that could be read.",
        "cast columns that hold text to strings",
    ),
    "HF066": Code(
        "binary columns are left out",
        "warning",
        "JSON has no binary values: what is in these columns, such as images, is not read.",
        "cast columns that hold text to strings",
    ),
    "HF067": Code(
        "a place where rows of this kind cannot be read or written",
        "error",
        "Tables are read at many places of a file, and rows are written whole or not at all: a pipe, a file that is "
        "compressed as a whole or one on another machine does not allow that.",
        "name a file on this machine, decompressed, or write the rows as JSONL",
    ),
    # Rows that are read on the way to the trainer, or over a network.
    "HF071": Code(
        "a stream no row of which gives an example",
        "error",
        "The shards would be read again and again, and the run would never take a step.",
        "look at the rows with `hf-finetune check`",
    ),
    "HF072": Code(
        "rows at an address, or in a data set of the Hub, that cannot be read",
        "error",
        "They are not on this machine, and a run cannot begin without them.",
        "check the name, the network and the login; offline, name files, or what is in the cache already",
    ),
    # Corpora that the project makes.
    "HF080": Code(
        "a Python without the source of its standard library",
        "error",
        "The corpora are made of that source, which some systems keep in a package of its own.",
        "install that package, or use another Python",
    ),
    "HF081": Code(
        "a file that holds no canaries, or contradicts itself",
        "error",
        "Exposure ranks the secret that was trained among others: it says nothing of a line that holds no secret, or "
        "of one that names a second secret for the same vault.",
        "name the file that `hf-finetune corpus canaries` wrote, as it was trained",
    ),
    # What was made of rows, and is used again.
    "HF090": Code(
        "a file of the cache that was removed or changed while it was used",
        "error",
        "The rows that a run reads from it would be others in the middle of the run.",
        "start the run again, and do not clear the cache while a run uses it",
    ),
    "HF091": Code(
        "a file of the cache is made again",
        "warning",
        "It is not as it was written: a process was killed, a disk was full, or somebody changed it. Nothing is lost "
        "but time.",
        "nothing; where it happens again and again, check the disk",
    ),
    "HF092": Code(
        "prints of training rows that cannot be read",
        "warning",
        "They tell which rows a model was trained on: without them, a score on rows that it knows looks like one on "
        "new rows.",
        "put the file back as the run wrote it, or go on with the run, which writes it anew",
    ),
    "HF093": Code(
        "a process that reads rows has ended before its time",
        "error",
        "The rows that it was given are missing. As a rule the system has ended it for want of memory.",
        "start the run again, with data.num_proc: 1 if the memory is too small",
    ),
    "HF094": Code(
        "a file or a line at which the run has no row",
        "error",
        "What a run trains on can be shown of its own rows: not of a blank line, of one that it leaves out, or of a "
        "file of another run.",
        "name a line of one of the run's files that holds a row",
    ),
    "HF095": Code(
        "a run whose training rows are not at hand",
        "error",
        "A run that trains nothing has none, and those of a stream are read on the way to the trainer.",
        "name a run that trains, and for a stream some of its files with data.stream: false",
    ),
}
