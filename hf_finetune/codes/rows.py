"""HF00x to HF03x, of HF0xx (files, and rows that cannot be read): files, lines of JSON, and the fields of rows."""

from __future__ import annotations

from hf_finetune.codes.code import Code

ROWS: dict[str, Code] = {
    # Files of every kind, refused wherever one is read.
    "HF001": Code(
        "a file or a folder that is not there",
        "error",
        "Nothing takes the place of what was named: a run on other data, or from another model, would look like any "
        "other.",
        "check the path; a relative one begins in the folder in which the command is run",
    ),
    "HF002": Code(
        "a file that cannot be read",
        "error",
        "Something of this name is there, and it is a folder or a device, or the system does not let this user read "
        "it.",
        "name a regular file, or change its permissions",
    ),
    "HF003": Code(
        "text that is not UTF-8",
        "error",
        "Bytes that are read in an encoding that is not theirs become other letters, and a model would learn these.",
        "convert the file, for example with `iconv -f WINDOWS-1252 -t UTF-8 old > new`, or write it again",
    ),
    "HF004": Code(
        "a file that is damaged or cut off",
        "error",
        "What is left of it may look whole: a run would train on a part of the rows, and nothing would say so.",
        "copy or download it again, and compare its size or its checksum",
    ),
    "HF005": Code(
        "a file that does not hold rows",
        "error",
        "Archives, spreadsheets, web pages and prose have no rows; taken for rows, their lines would be trained as "
        "noise.",
        "convert it to JSONL, CSV or Parquet, or read plain text with data.format: lines, paragraphs or file",
    ),
    "HF006": Code(
        "a file of another kind than its name says",
        "error",
        "The ending of a name decides how a file is read, here and by other programs; which of the two is wrong, the "
        "name or the content, only its owner can tell.",
        "rename the file, or write it again as what its name says",
    ),
    "HF007": Code(
        "a file without rows",
        "error",
        "An empty file is mostly what is left of an export that failed, and there is nothing in it to train or to "
        "measure.",
        "put rows into it, or leave it out",
    ),
    "HF008": Code(
        "a file that changed while it was read",
        "error",
        "Rows from before and after the change may not belong together, and the hash in the manifest would be of "
        "neither.",
        "run again when nothing writes into the file any more",
    ),
    "HF009": Code(
        "a file that is far larger than can be meant",
        "error",
        "A compressed file that unpacks to many times its size, or a single document of more than a gigabyte, would "
        "fill the memory or the disk before anything is trained.",
        "look at what it holds; a long text is cut by data.format: paragraphs or lines",
    ),
    # A line, before its fields are looked at. Python's own parser accepts half of these without a word.
    "HF010": Code(
        "a line that is not a JSON object",
        "error",
        "JSON Lines has one object on each line; what a broken line was to say cannot be told, and a part of a row "
        "would be trained as a whole one.",
        "write the file with a JSON library, one object a line, or leave such lines out with data.on_bad_line: skip",
    ),
    "HF011": Code(
        "more than one JSON value on a line",
        "error",
        "One of them would be read, and the others would be lost without a word.",
        "put each object on a line of its own, with nothing behind it",
    ),
    "HF012": Code(
        "a key that occurs twice in one object",
        "error",
        "Programs differ in which of the two values they keep, so that the row would be another one to each of them.",
        "keep one of the two",
    ),
    "HF013": Code(
        "a number that JSON does not have, or that not every program can hold",
        "error",
        "NaN and infinity are no JSON, and programs round or refuse integers beyond 64 bits: what is read would not be "
        "what was written.",
        "write it as a string, write null, or leave the key out",
    ),
    "HF014": Code(
        "a row or a table that is nested too deep or has too many keys",
        "error",
        "That is mostly data of another kind than rows, and each level and key costs time and memory in every row.",
        "flatten the row, keep the fields that are read, or make lists of many keys",
    ),
    "HF015": Code(
        "a line or a row that is longer than the limit",
        "error",
        "A row of many megabytes is mostly a whole file that was written as one: it would be held in memory, and "
        "nearly all of it cut off before it reaches the model.",
        "split it, or raise data.max_line_bytes",
    ),
    "HF016": Code(
        "half of a character, or a NUL byte, in a row",
        "error",
        "Half of a surrogate pair stands for no character, and NUL bytes come from damage or from UTF-16: neither is "
        "text that anybody has written.",
        "write the characters themselves, or write the file again as UTF-8",
    ),
    "HF017": Code(
        "JSON that is spread over several lines",
        "error",
        "Each line is read as a row, and none of these lines is one.",
        "write one object a line, without indentation",
    ),
    "HF018": Code(
        "a .json file that is not one array of rows",
        "error",
        "A .json file holds one value, which is the array of all rows; what stands beside it would be lost.",
        "put all rows into one array, or write one object a line and name the file .jsonl",
    ),
    # Which format the rows have, and whether the run can use rows of it.
    "HF020": Code(
        "keys that fit no row format",
        "error",
        "Which field is the question and which the answer is not guessed: a wrong guess would train the model on the "
        "wrong text.",
        "rename the keys, or say in data.columns which column each field is taken from",
    ),
    "HF021": Code(
        "keys that fit several row formats",
        "error",
        "The same row would be trained as another text under each of them.",
        "set data.format to the one that is meant",
    ),
    "HF022": Code(
        "rows of another kind than the recipe, the task or the model takes",
        "error",
        "A classifier needs labels, a chat model conversations, a language model text: rows of another kind have "
        "nothing in them that it could learn.",
        "choose the recipe, the task or the model for these rows, or name other rows",
    ),
    "HF023": Code(
        "a row or a message without a field that its format needs",
        "error",
        "A row that lacks a field would be used with a part missing, such as a question without its answer.",
        "add the field, take it from another column, or take the row out",
    ),
    "HF024": Code(
        "a field that is named and is not in the rows",
        "error",
        "A setting that quietly did nothing would change what is trained or measured, and nobody would know.",
        "correct the name, give every row the field, or leave the setting out",
    ),
    "HF025": Code(
        "a key that is misspelled, or that is not ours",
        "error",
        "A misspelled key would be passed over as if it were not there, and so would another tool's sign for a turn "
        "that is not to be trained.",
        "correct the name, or take the key out",
    ),
    "HF026": Code(
        "a field of another type than its format has",
        "error",
        "A number, a list or an object in the place of a text would be trained as the signs that write it down.",
        "write the field in the type that is named, or take it from another column with data.columns",
    ),
    "HF027": Code(
        "a field that must be a number and is none",
        "error",
        'Nothing tells whether "1,000" is one or a thousand, and a label that is read wrong is learned wrong.',
        "write digits with a decimal point and without quotes, or take the row out",
    ),
    "HF028": Code(
        "an empty field",
        "error",
        "A model that is trained on empty answers learns to say nothing, and a null or an empty list is no text at "
        "all.",
        "fill it in, take the row out, or set data.allow_empty where empty texts are meant",
    ),
    "HF029": Code(
        "columns that are mapped to fields which make no row",
        "error",
        "A field that no format has, fields of two formats, or one column for both texts of a pair give no row that "
        "could be trained.",
        "map the fields of one format, each from a column of its own",
    ),
    # What is in a conversation.
    "HF030": Code(
        "a conversation nothing of which is trained",
        "error",
        "Only turns of the assistant are trained: a row without one, or with all of them left out, teaches nothing.",
        "add the answer, let one turn be trained, or take the row out",
    ),
    "HF031": Code(
        "a role or a speaker that is not known",
        "error",
        "Who speaks decides what is trained: a chat template would leave such a turn out, or give it to somebody else.",
        "write one of the roles of the format, such as system, user and assistant, or system, human and gpt",
    ),
    "HF032": Code(
        "turns in an order that no conversation has",
        "error",
        "Chat templates refuse a system message in the middle and two answers in a row, or move them, and the model "
        "would learn from another conversation than the one in the file.",
        "put the system message first, and join answers that follow each other or put back what stood between them",
    ),
    "HF033": Code(
        "content of a message that is not text",
        "error",
        "Images and sounds are not trained here, and without them the question is another one.",
        "take the row out, or say in words what the part shows",
    ),
    "HF034": Code(
        "keys of messages that nothing but a chat template reads",
        "warning",
        "Whether they are in the trained text depends on the template alone, and many pass them over.",
        "look at a row with `hf-finetune tokens RUN.yaml FILE:LINE`, and take out keys that the template does not "
        "write",
    ),
    # Fields by which rows are divided.
    "HF035": Code(
        "a field to divide rows by that does not hold one short value",
        "error",
        "Rows are grouped, stratified and sliced by equal values: lists and long texts are hardly ever equal, and "
        "would bring what is in the rows into the report.",
        "name a field that holds a short text or a number, such as a language or a source",
    ),
    "HF036": Code(
        "rows whose fields cannot be read again",
        "error",
        "To divide a score by a field, its file is read a second time, and a data set of the Hub is no file on this "
        "machine.",
        "save the rows as JSONL and name that file, or leave the setting out",
    ),
    "HF037": Code(
        "rows none of which has any text",
        "error",
        "There is nothing in white space that could be learned or measured.",
        "fill the text fields, or name the column that holds the text in data.columns",
    ),
}

_WHY = "A model can repeat what it was trained on, word for word, to whoever asks it."
_REPLACE = "replace it by a made-up one, or take the rows out; what is public on purpose may stay"
_REVOKE = "take it out, and make it invalid where it was issued: whoever has the file has it"

PERSONAL: dict[str, Code] = {
    "HF401": Code("rows hold e-mail addresses", "warning", _WHY, _REPLACE),
    "HF402": Code("rows hold phone numbers", "warning", _WHY, _REPLACE),
    "HF403": Code("rows hold bank account numbers", "warning", _WHY, _REPLACE),
    "HF404": Code("rows hold card numbers", "warning", _WHY, _REPLACE),
    "HF405": Code("rows hold IP addresses of the public internet", "note", _WHY, _REPLACE),
    "HF406": Code("rows hold numbers of the shape of a social security number", "warning", _WHY, _REPLACE),
    "HF411": Code("rows hold keys, tokens or passwords", "error", _WHY, _REVOKE),
    "HF412": Code("rows hold addresses with a password in them", "error", _WHY, _REVOKE),
}
